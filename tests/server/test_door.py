"""The state of a server, and what stands between a request and an engine."""

import gzip
import json
import threading
from collections.abc import Callable, Sequence
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


class Noting(Tokenizer):
    """Remembers in which threads it worked."""

    threads: set[threading.Thread]

    def __init__(self) -> None:
        self.__dict__ = {**tiny_tokenizer().__dict__, "threads": set()}

    def encode(self, text: str, **options: Any) -> list[int]:
        self.threads.add(threading.current_thread())
        return super().encode(text, **options)

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        self.threads.add(threading.current_thread())
        return super().decode(ids, **options)


READING: list[tuple[str, Callable[[int], dict[str, Any]]]] = [
    ("/v1/completions", lambda size: {"prompt": "x" * size}),
    ("/v1/messages/count_tokens", lambda size: {"messages": [{"role": "user", "content": "x" * size}]}),
    ("/tokenize", lambda size: {"content": "x" * size}),
    ("/detokenize", lambda size: {"tokens": [1] * size}),
]


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
@pytest.mark.parametrize(("size", "elsewhere"), [(10, False), (5000, True)])
@pytest.mark.parametrize(("path", "body"), READING)
def test_only_long_texts_are_read_in_another_thread(
    path: str, body: Callable[[int], dict[str, Any]], size: int, elsewhere: bool, encoding: str
) -> None:
    tokenizer = Noting()
    engine = ScriptedEngine(said("a"), max_model_len=10_000)
    app = create_app(Door(Models.of("tiny", Backend(engine, tokenizer))))
    sent = json.dumps(body(size)).encode()
    headers = {"content-type": "application/json", "content-encoding": encoding}
    content = gzip.compress(sent) if encoding == "gzip" else sent
    assert request(app, "POST", path, content=content, headers=headers).status_code == 200
    assert {thread is not threading.main_thread() for thread in tokenizer.threads} == {elsewhere}


def test_a_short_request_that_follows_a_long_response_is_read_in_another_thread() -> None:
    tokenizer = Noting()
    engine = ScriptedEngine(said("a"), said("b"), max_model_len=10_000)
    app = create_app(Door(Models.of("tiny", Backend(engine, tokenizer))))
    first = post(app, "/v1/responses", input="x" * 5000).json()
    tokenizer.threads.clear()
    assert post(app, "/v1/responses", input="y", previous_response_id=first["id"]).status_code == 200
    assert threading.main_thread() not in tokenizer.threads


def test_a_request_that_is_refused_holds_no_place_of_its_key() -> None:
    app = keyed_app(ScriptedEngine(said("a")), key("al", concurrent=1))
    headers = {"api-key": "secret-al", "content-type": "application/json"}
    bodies = [{"prompt": [1] * 9, "n": 200}, {"prompt": "a", "model": "other"}, {"prompt": "a"}]
    replies = [
        request(app, "POST", "/v1/completions", content=json.dumps(body), headers=headers) for body in bodies
    ]
    assert [reply.status_code for reply in replies] == [400, 404, 200]
