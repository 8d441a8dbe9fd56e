"""Answers on their way out: JSON bytes, server-sent events, and what happens when the client goes away."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")
KEEP_ALIVE_SECONDS = 10.0
_KEEP_ALIVE = b": keep-alive\n\n"
_AHEAD = 16
"""Chunks that may wait for a slow reader."""


def encode_json(value: Any) -> bytes:
    """UTF-8; lone surrogates, which only a prompt can bring, stay the escapes they came as."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Framing:
    """How a family of APIs puts JSON values one after the other."""

    media_type: str
    frame: Callable[[Any], bytes]
    last: bytes = b""
    """After the last value, unless something failed."""
    pause: bytes = b""
    """Sent into long silences; values only where none would be understood."""


def _event(value: Any) -> bytes:
    return b"data: " + encode_json(value) + b"\n\n"


def _named_event(value: Any) -> bytes:
    return b"event: " + str(value["type"]).encode() + b"\n" + _event(value)


def _line(value: Any) -> bytes:
    return encode_json(value) + b"\n"


_SSE = "text/event-stream"
EVENTS = Framing(_SSE, _event, b"data: [DONE]\n\n", _KEEP_ALIVE)
"""OpenAI's."""
BARE_EVENTS = Framing(_SSE, _event, pause=_KEEP_ALIVE)
"""llama.cpp's: without [DONE]."""
NAMED_EVENTS = Framing(_SSE, _named_event, pause=_KEEP_ALIVE)
"""Anthropic's, and those of OpenAI's responses: named by the value's `type`."""
LINES = Framing("application/x-ndjson", _line)
"""Ollama's."""


async def framed(
    chunks: AsyncGenerator[Any, None],
    framing: Framing,
    tell: Callable[[Exception], Any],
    begun: Callable[[], bool] = lambda: True,
) -> AsyncGenerator[bytes, None]:
    """Chunks in their frames, those that are there together in one piece, and something now and then while none is.

    Until the answer has `begun`, or has been waited for, nothing is told, and a failure is raised: it can still have a
    status of its own. Later a failure is one frame with what `tell` makes of it, and nothing after.
    """
    held = b""
    told = False
    async with aclosing(_batches(chunks)) as batches:
        try:
            async for batch in batches:
                held += framing.pause if batch is None else b"".join(map(framing.frame, batch))
                if held and (told or begun() or batch is None):
                    yield held
                    held, told = b"", True
        except Exception as error:
            if not told:
                raise
            yield held + framing.frame(tell(error))
            return
    if held or framing.last:
        yield held + framing.last


@dataclass(frozen=True)
class _Ended:
    """There are no more chunks; maybe for a reason."""

    error: Exception | None = None


async def _batches(chunks: AsyncGenerator[T, None]) -> AsyncGenerator[list[T] | None, None]:
    """The same, those together that are there; None after every KEEP_ALIVE_SECONDS of silence."""
    # One task for all chunks: a task for each, to wait for with a timeout, costs more than all else about a chunk.
    inbox: asyncio.Queue[T | _Ended] = asyncio.Queue(_AHEAD)
    pump = asyncio.create_task(_pump(chunks, inbox))
    try:
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                    items = [await inbox.get()]
            except TimeoutError:
                yield None
                continue
            while not inbox.empty():
                items.append(inbox.get_nowait())
            end = items[-1] if isinstance(items[-1], _Ended) else None
            yield [item for item in items if not isinstance(item, _Ended)]
            if end is not None and end.error is not None:
                raise end.error
            if end is not None:
                return
    finally:
        await _end(pump)


async def _pump(chunks: AsyncGenerator[T, None], inbox: "asyncio.Queue[T | _Ended]") -> None:
    async with aclosing(chunks):
        try:
            async for chunk in chunks:
                await inbox.put(chunk)
        except Exception as error:
            await inbox.put(_Ended(error))
        else:
            await inbox.put(_Ended())


class EventStream(Response):
    """Sends events as they come until there are no more or the client is gone; either way the source is closed.

    Not Starlette's class: that cancels over and over while a generator is still cleaning up.
    """

    def __init__(self, source: AsyncGenerator[bytes, None], media_type: str) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(headers=headers, media_type=media_type)
        del self.headers["content-length"]
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One cancel at most, so that the source can clean up."""
        await unless_gone(Request(scope, receive), self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._source) as source:
            begun = False
            async for data in source:
                if not begun:
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    begun = True
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The work's result; None, and the work is cancelled, when the client goes away before.

    The body must have been read. `request.state.gone` remembers it for the log.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return await task
        request.state.gone = True
        return None
    finally:
        await _end(task, gone)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: "asyncio.Future[Any]") -> None:
    """Cancels what still runs and waits until it has cleaned up."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
