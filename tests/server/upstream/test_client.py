"""One other server: what it says it has, and when it is left alone."""

import asyncio
import time
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from coderv2.errors import InvalidValue, ServiceError
from coderv2.server.upstream import client
from coderv2.server.upstream.client import Client, Late, Unreachable
from tests.engine.fakes import Clock
from tests.server.running import running
from tests.server.upstream.standin import StandIn

BODY: dict[str, Any] = {"model": "m", "prompt": [1], "stream": True}


async def _events(upstream: Client) -> list[dict[str, Any]]:
    return [event async for event in upstream.events(BODY)]


def test_it_tells_its_model_its_kind_and_its_context() -> None:
    with running(StandIn("sglang").app) as url:
        for spelled in (url, f"{url}/", f"{url}/v1"):
            upstream = Client(spelled, "key")
            assert not upstream.known
            asyncio.run(upstream.look())
            assert (upstream.model, upstream.flavour.name, upstream.max_model_len) == (
                "their-model",
                "sglang",
                4096,
            )
            assert upstream.known
            upstream.failed()
            assert not upstream.known  # it may come back as another


def test_one_that_fails_is_left_alone_twice_as_long_each_time() -> None:
    clock = Clock()
    upstream = Client("http://127.0.0.1:9", None, clock)
    waited = []
    for _ in range(8):
        upstream.failed()
        began = clock.now
        while not upstream.alive:
            clock.now += 0.5
        waited.append(clock.now - began)
    assert waited == [1, 2, 4, 8, 16, 32, client.LONGEST_PAUSE, client.LONGEST_PAUSE]


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, InvalidValue), (422, InvalidValue), (401, Unreachable), (429, Unreachable), (500, Unreachable)],
)
def test_what_a_status_means(status: int, error: type[Exception]) -> None:
    server = StandIn()
    server.status = status
    with running(server.app) as url, pytest.raises(error):
        asyncio.run(_events(Client(url, None)))


def test_a_failure_before_the_first_text_lets_another_try() -> None:
    for breaks_after, error in ((0, Unreachable), (1, ServiceError)):
        server = StandIn()
        server.breaks_after = breaks_after
        with running(server.app) as url, pytest.raises(error, match="out of memory"):
            asyncio.run(_events(Client(url, None)))
    with pytest.raises(Unreachable):
        asyncio.run(_events(Client("http://127.0.0.1:9", None)))


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_events_are_read_however_lines_end_and_wherever_they_are_cut(cut: int) -> None:
    """An error that is null is none: some servers send one with each event."""
    sent = 'data:{"a":"é"}\r\n\r\n: keep-alive\n\ndata: {"b":2,"error":null}\n\ndata:[DONE]'.encode()

    async def pieces(request: Request) -> Response:
        return StreamingResponse(sent[at : at + cut] for at in range(0, len(sent), cut))

    app = Starlette(routes=[Route("/v1/completions", pieces, methods=["POST"])])
    with running(app) as url:
        assert asyncio.run(_events(Client(url, None))) == [{"a": "é"}, {"b": 2, "error": None}]


def test_one_that_takes_a_request_and_is_silent_is_late() -> None:
    server = StandIn()
    server.hangs = 30.0
    with running(server.app) as url:
        upstream = Client(url, None, begin_seconds=0.3)
        began = time.monotonic()
        with pytest.raises(Late, match=r"no answer began within 0\.3 s"):
            asyncio.run(_events(upstream))
        assert time.monotonic() - began < 10
    assert upstream.running == 0


def test_one_that_has_begun_may_take_its_time() -> None:
    server = StandIn(texts=("a", "b", "c"))

    async def slowly(upstream: Client) -> list[dict[str, Any]]:
        found = []
        async for event in upstream.events(BODY):
            found.append(event)
            await asyncio.sleep(0.3)
        return found

    with running(server.app) as url:
        assert len(asyncio.run(slowly(Client(url, None, begin_seconds=0.5)))) == 5


def test_a_stream_that_is_read_makes_it_trusted_again_and_is_counted_while_it_runs() -> None:
    seen: list[int] = []

    async def read(upstream: Client) -> None:
        async for _ in upstream.events(BODY):
            seen.append(upstream.running)

    with running(StandIn().app) as url:
        upstream = Client(url, None)
        upstream.failed()
        asyncio.run(read(upstream))
    assert set(seen) == {1}
    assert upstream.running == 0
    assert upstream._pause == client.FIRST_PAUSE
