"""Events, silence, failure, and clients that go away."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from fastapi import Request

from coderv2.server import stream
from coderv2.server.stream import (
    BARE_EVENTS,
    EVENTS,
    LINES,
    NAMED_EVENTS,
    EventStream,
    Framing,
    encode_json,
    framed,
    unless_gone,
)


class Source:
    """Chunks with pauses; remembers that it was closed."""

    def __init__(self, *items: Any) -> None:
        self.items = items
        self.closed = False

    async def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        try:
            for item in self.items:
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, float):
                    await asyncio.sleep(item)
                else:
                    yield item
        finally:
            await asyncio.sleep(0)  # cleaning up may itself have to wait
            self.closed = True


def _told(error: Exception) -> dict[str, Any]:
    return {"error": str(error)}


def _sent(source: Source, framing: Framing = EVENTS, begun: Callable[[], bool] = lambda: True) -> bytes:
    async def collect() -> bytes:
        return b"".join([data async for data in framed(source.chunks(), framing, _told, begun)])

    return asyncio.run(collect())


def test_each_chunk_is_an_event_and_done_comes_last() -> None:
    source = Source({"a": "é"}, {"b": 2})
    assert _sent(source) == 'data: {"a":"é"}\n\ndata: {"b":2}\n\ndata: [DONE]\n\n'.encode()
    assert source.closed


def test_a_failure_is_one_event_and_no_done() -> None:
    source = Source({"a": 1}, RuntimeError("broken"))
    assert _sent(source) == b'data: {"a":1}\n\ndata: {"error":"broken"}\n\n'
    assert source.closed


def test_silence_is_filled_with_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "KEEP_ALIVE_SECONDS", 0.02)
    text = _sent(Source({"a": 1}, 0.07, {"b": 2}))
    assert text.startswith(b'data: {"a":1}\n\n: keep-alive\n\n')
    assert text.endswith(b'data: {"b":2}\n\ndata: [DONE]\n\n')


def test_until_the_answer_has_begun_a_failure_is_raised_and_nothing_told() -> None:
    source = Source({"role": 1}, 0.01, RuntimeError("full"))
    with pytest.raises(RuntimeError, match="full"):
        _sent(source, begun=lambda: False)
    assert source.closed


def test_what_has_waited_for_long_is_told_by_a_comment_and_then_its_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "KEEP_ALIVE_SECONDS", 0.02)
    text = _sent(Source({"role": 1}, 0.03, RuntimeError("full")), begun=lambda: False)
    assert text == b'data: {"role":1}\n\n: keep-alive\n\ndata: {"error":"full"}\n\n'


def test_what_never_begins_is_told_at_its_end() -> None:
    assert _sent(Source({"a": 1}), begun=lambda: False) == b'data: {"a":1}\n\ndata: [DONE]\n\n'


def test_chunks_that_are_there_together_are_one_piece() -> None:
    async def pieces() -> list[bytes]:
        source = Source({"a": 1}, {"b": 2}, 0.01, {"c": 3})
        return [data async for data in framed(source.chunks(), BARE_EVENTS, _told)]

    assert asyncio.run(pieces()) == [b'data: {"a":1}\n\ndata: {"b":2}\n\n', b'data: {"c":3}\n\n']


def test_each_family_has_its_frames() -> None:
    value = {"type": "ping", "a": 1}
    data = b'{"type":"ping","a":1}'
    assert _sent(Source(value), NAMED_EVENTS) == b"event: ping\ndata: " + data + b"\n\n"
    assert _sent(Source(value), BARE_EVENTS) == b"data: " + data + b"\n\n"
    assert _sent(Source(value), LINES) == data + b"\n"


def test_lone_surrogates_stay_valid_json() -> None:
    assert encode_json({"a": "\ud800é"}) == '{"a":"\\ud800é"}'.encode()


class Client:
    """The other side of one ASGI exchange; goes away after some messages."""

    def __init__(self, leaves_after: int) -> None:
        self.sent: list[Any] = []
        self.state: dict[str, Any] = {}
        self._leaves_after = leaves_after
        self._gone = asyncio.Event()
        self._leave_if_due()

    async def receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        self._leave_if_due()
        await asyncio.sleep(0)

    def scope(self) -> dict[str, Any]:
        return {"type": "http", "state": self.state}

    def _leave_if_due(self) -> None:
        if len(self.sent) >= self._leaves_after:
            self._gone.set()


@pytest.mark.parametrize("leaves_after", range(1, 6))
def test_wherever_the_client_leaves_the_source_is_closed_before_the_reply_ends(leaves_after: int) -> None:
    source = Source({"a": 1}, {"b": 2}, {"c": 3}, {"d": 4}, 60.0, {"e": 5})

    async def exchange() -> Client:
        client = Client(leaves_after)
        await EventStream(framed(source.chunks(), EVENTS, _told), "text/event-stream")(
            client.scope(), client.receive, client.send
        )
        return client

    client = asyncio.run(exchange())
    assert client.state["gone"]
    assert source.closed or leaves_after == 1  # that early, nothing may have been opened
    assert len(client.sent) <= leaves_after + 3


def test_work_is_cancelled_when_the_client_goes_away() -> None:
    cancelled = []

    async def work() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        return "done"

    async def exchange() -> str | None:
        client = Client(leaves_after=0)
        return await unless_gone(Request(client.scope(), client.receive), work())

    assert asyncio.run(exchange()) is None
    assert cancelled == [True]


def test_the_result_comes_while_the_client_waits() -> None:
    async def work() -> str:
        return "done"

    async def exchange() -> tuple[str | None, dict[str, Any]]:
        client = Client(leaves_after=9)
        return await unless_gone(Request(client.scope(), client.receive), work()), client.state

    assert asyncio.run(exchange()) == ("done", {})
