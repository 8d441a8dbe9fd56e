"""What must hold for every text, every stop string, and wherever a client leaves."""

import json
import socket
from collections.abc import Iterator
from itertools import pairwise
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coderv2.engine.worker import Worker
from coderv2.server.app import simple_app
from coderv2.text.fim import encode_fim
from coderv2.text.stream import TextStream
from coderv2.text.tokenizer import FIM_BEGIN, FIM_END, FIM_HOLE
from tests.engine.fakes import FakeModel, fake_engine
from tests.server.fakes import ScriptedEngine, post, said, scripted_app
from tests.server.running import eventually, running
from tests.tiny_tokenizer import LINES, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
SOURCES = [
    "".join(LINES),
    "".join(LINES).replace("\n", "\r\n"),
    "x = '🚀 é 世界'\n\t\ny\n",
    f"# {FIM_HOLE}\n{FIM_END}x\n",
]
LIVELY = settings(suppress_health_check=[HealthCheck.too_slow], max_examples=25, deadline=None)


@given(
    st.text("ab \n", min_size=1, max_size=12),
    st.lists(st.text("ab \n", min_size=1, max_size=5), min_size=1, max_size=16),
)
def test_r5_a_stop_string_is_found_over_every_token_border(text: str, stops: list[str]) -> None:
    """R5: however the text is cut into tokens, what is told is what stands before the first stop string."""
    first = min((end for stop in stops for end in [_end(text, stop)] if end is not None), default=None)
    letters = [token for letter in text for token in TOKENIZER.encode(letter)]
    for ids in (TOKENIZER.encode(text), letters):
        stream = TextStream(TOKENIZER, stops)
        told = "".join(stream.push(token) for token in ids) + stream.finish()
        assert not any(stop in told for stop in stops)
        assert (stream.stopped is not None) == (first is not None)
        assert text.startswith(told)


def _end(text: str, stop: str) -> int | None:
    place = text.find(stop)
    return None if place < 0 else place + len(stop)


def _roads(prefix: str, suffix: str) -> list[tuple[str, dict[str, object]]]:
    return [
        ("/v1/completions", {"prompt": prefix, "suffix": suffix}),
        ("/beta/completions", {"prompt": prefix, "suffix": suffix}),
        ("/v1/fim/completions", {"prompt": prefix, "suffix": suffix}),
        ("/infill", {"input_prefix": prefix, "input_suffix": suffix, "prompt": ""}),
        ("/api/generate", {"prompt": prefix, "suffix": suffix or "\n", "stream": False}),
    ]


@pytest.mark.slow
def test_t4_a_thousand_cuts_give_the_same_tokens_on_every_road() -> None:
    random = Random(4)
    for number in range(1000):
        source = SOURCES[number % len(SOURCES)]
        start, end = sorted(random.choices(range(len(source) + 1), k=2))
        prefix, suffix = source[:start], source[end:]
        roads = _roads(prefix, suffix)
        if FIM_HOLE not in source:
            roads.append(("/v1/completions", {"prompt": f"{FIM_BEGIN}{prefix}{FIM_HOLE}{suffix}{FIM_END}"}))
        if not suffix:
            roads = [road for road in roads if road[0] != "/api/generate"]
        engine = ScriptedEngine(*[said("x")] * len(roads), max_model_len=10_000)
        app = scripted_app(engine)
        for path, body in roads:
            assert post(app, path, **body).status_code == 200
        assert engine.prompts == [encode_fim(TOKENIZER, prefix, suffix)] * len(roads)


@pytest.fixture(scope="module")
def busy() -> Iterator[tuple[Worker, tuple[str, int]]]:
    engine = fake_engine(FakeModel(context=20_000), cache_tokens=100_000)
    worker = Worker(engine)
    worker.start()
    with running(simple_app(worker, engine.tokenizer, "tiny")) as url:
        host, port = url.removeprefix("http://").split(":")
        yield worker, (host, int(port))
    worker.stop()
    engine.check()


def _ask(stream: bool) -> bytes:
    body = json.dumps(
        {"prompt": ["a", "b"], "max_tokens": 15_000, "temperature": 0, "stream": stream}
    ).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@LIVELY
@given(st.integers(1, 3000))
def test_x1_a_client_may_leave_after_every_byte_of_the_reply(
    busy: tuple[Worker, tuple[str, int]], count: int
) -> None:
    worker, address = busy
    with socket.create_connection(address) as connection:
        connection.sendall(_ask(stream=True))
        left = count
        while left > 0:
            left -= len(connection.recv(left))
    eventually(
        lambda: (worker.stats().running, worker.stats().waiting, worker.stats().pages_used) == (0, 0, 0)
    )


@LIVELY
@given(st.data())
def test_x1_a_client_may_leave_after_every_byte_of_its_request(
    busy: tuple[Worker, tuple[str, int]], data: st.DataObject
) -> None:
    worker, address = busy
    request = _ask(stream=False)
    with socket.create_connection(address) as connection:
        connection.sendall(request[: data.draw(st.integers(0, len(request)))])
    eventually(
        lambda: (worker.stats().running, worker.stats().waiting, worker.stats().pages_used) == (0, 0, 0)
    )


@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=6))
def test_e1_no_character_is_split_between_events(texts: list[str]) -> None:
    response = post(scripted_app(ScriptedEngine(said(*texts))), "/v1/completions", prompt="a", stream=True)
    parts = [json.loads(p.removeprefix("data: ")) for p in response.content.decode().split("\n\n")[:-2]]
    assert "".join(part["choices"][0]["text"] for part in parts) == "".join(texts)
    assert all(first["id"] == second["id"] for first, second in pairwise(parts))
