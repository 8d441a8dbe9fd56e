"""The state of a server, and what stands between a request and an engine."""

import json
import threading
from typing import Any

import pytest

from coderv2.server.app import create_app
from coderv2.server.backend import Backend
from coderv2.server.door import Door
from coderv2.server.errors import Refused
from coderv2.server.models import Models
from coderv2.text.tokenizer import Tokenizer
from tests.server.fakes import ScriptedEngine, key, keyed_app, post, request, said
from tests.tiny_tokenizer import tiny_tokenizer


def _models(*engines: ScriptedEngine) -> Models:
    return Models.of("tiny", *(Backend(engine, tiny_tokenizer()) for engine in engines))


def test_it_loads_serves_drains_and_stops() -> None:
    door, chat, text = Door(), ScriptedEngine(), ScriptedEngine()
    assert door.state == "loading"
    with pytest.raises(Refused, match="being loaded") as caught:
        door.served()
    assert (caught.value.failure.status, caught.value.failure.code) == (503, "loading")
    door.models = _models(chat, text)
    assert door.state == "ready"
    text.alive = False
    assert door.state == "stopped"
    door.draining = True
    assert door.state == "draining"


@pytest.mark.parametrize(("size", "elsewhere"), [(10, False), (5000, True)])
def test_only_long_prompts_are_read_in_another_thread(size: int, elsewhere: bool) -> None:
    threads: list[threading.Thread] = []

    class Noting(Tokenizer):
        def encode(self, text: str, **options: Any) -> list[int]:
            threads.append(threading.current_thread())
            return super().encode(text, **options)

    tokenizer = object.__new__(Noting)
    tokenizer.__dict__.update(tiny_tokenizer().__dict__)
    engine = ScriptedEngine(said("a"), max_model_len=10_000)
    app = create_app(Door(Models.of("tiny", Backend(engine, tokenizer))))
    assert post(app, "/v1/completions", prompt="x" * size).status_code == 200
    assert (threads[0] is not threading.main_thread()) == elsewhere


def test_a_request_that_is_refused_holds_no_place_of_its_key() -> None:
    app = keyed_app(ScriptedEngine(said("a")), key("al", concurrent=1))
    headers = {"api-key": "secret-al", "content-type": "application/json"}
    bodies = [{"prompt": [1] * 9, "n": 200}, {"prompt": "a", "model": "other"}, {"prompt": "a"}]
    replies = [
        request(app, "POST", "/v1/completions", content=json.dumps(body), headers=headers) for body in bodies
    ]
    assert [reply.status_code for reply in replies] == [400, 404, 200]
