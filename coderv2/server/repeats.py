"""`Idempotency-Key`: who sends the same request again, because the reply got lost, gets the first reply again.

Nothing is computed or counted a second time. What failed, or was left before its end, is not remembered: the next with
that key begins anew. Replies are kept in memory, the newest of them, and only so many bytes.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from coderv2.server.errors import Refused
from coderv2.server.stream import unless_gone

HEADER = "idempotency-key"
LONGEST_KEY = 255
KEPT_SECONDS = 24 * 3600.0
KEPT_BYTES = 64 << 20
"""Of all replies; the oldest go first. A single one may take a quarter."""
_OVERHEAD = 1024
"""Bytes that a kept reply takes besides its body."""


@dataclass
class Reply:
    """What a request was answered, as ASGI messages, once it is whole."""

    fingerprint: bytes
    """Of route and body: another request under the same key is a mistake."""
    began: float
    messages: list[Message] = field(default_factory=list)
    whole: bool = False
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the one who is getting the reply made; others wait for it."""

    @property
    def size(self) -> int:
        """Bytes, about."""
        return _OVERHEAD + sum(len(message.get("body", b"")) for message in self.messages)


class Repeats:
    """One server's remembered replies."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._replies: OrderedDict[tuple[str, str], Reply] = OrderedDict()
        self._bytes = 0

    async def answer(self, request: Request, handler: Callable[[Request], Awaitable[Response]]) -> Response:
        """The handler's response, or an earlier one. Raises Refused for a key that came with another request."""
        key = request.headers[HEADER]
        if not 1 <= len(key) <= LONGEST_KEY:
            raise Refused(
                400, "invalid_value", f"{HEADER} must have 1 to {LONGEST_KEY} characters", param=HEADER
            )
        place = (request.state.caller.tenant, key)
        fingerprint = sha256(request.state.route.encode() + b"\0" + await request.body()).digest()
        self._forget_old()
        reply = self._replies.setdefault(place, Reply(fingerprint, self._clock()))
        if reply.fingerprint != fingerprint:
            raise Refused(
                409,
                "idempotency_conflict",
                f"this {HEADER} came with another request before; a new request needs a new one",
                type="conflict_error",
            )
        return _Once(self, place, reply, request, handler)

    def keep(self, place: tuple[str, str], reply: Reply) -> None:
        """It is whole; others may have to go for it."""
        if self._replies.setdefault(place, reply) is not reply or reply.size > KEPT_BYTES // 4:
            self.drop(place, reply)
            return
        reply.whole = True
        self._bytes += reply.size
        while self._bytes > KEPT_BYTES:
            oldest = next(place for place, kept in self._replies.items() if kept.whole)
            self.drop(oldest, self._replies[oldest])

    def drop(self, place: tuple[str, str], reply: Reply) -> None:
        """Forgets it, unless another stands there by now."""
        if self._replies.get(place) is reply:
            del self._replies[place]
            self._bytes -= reply.size if reply.whole else 0

    def _forget_old(self) -> None:
        old = self._clock() - KEPT_SECONDS
        for place, reply in list(self._replies.items()):
            if reply.began > old:
                break
            if reply.whole:
                self.drop(place, reply)


class _Once(Response):
    """Has the reply made, or waits until another has, and sends it."""

    def __init__(
        self,
        repeats: Repeats,
        place: tuple[str, str],
        reply: Reply,
        request: Request,
        handler: Callable[[Request], Awaitable[Response]],
    ) -> None:
        super().__init__()
        self._repeats = repeats
        self._place = place
        self._reply = reply
        self._request = request
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The first one makes it; whoever finds it unmade at his turn is the first."""
        if await unless_gone(Request(scope, receive), self._reply.turn.acquire()) is None:
            return
        try:
            if self._reply.whole:
                await self._send_again(send)
            else:
                await self._make(scope, receive, send)
        finally:
            self._reply.turn.release()

    async def _send_again(self, send: Send) -> None:
        start, *bodies = self._reply.messages
        await send({**start, "headers": [*start["headers"], (b"idempotent-replayed", b"true")]})
        for message in bodies:
            await send(message)

    async def _make(self, scope: Scope, receive: Receive, send: Send) -> None:
        messages = self._reply.messages
        messages.clear()

        async def record(message: Message) -> None:
            # A copy: what stands around the app adds headers to the message itself.
            messages.append(
                {**message, "headers": list(message["headers"])} if "headers" in message else message
            )
            await send(message)

        try:
            response = await self._handler(self._request)
            await response(scope, receive, record)
        finally:
            if self._went_well():
                self._repeats.keep(self._place, self._reply)
            else:
                self._repeats.drop(self._place, self._reply)

    def _went_well(self) -> bool:
        state, messages = self._request.state, self._reply.messages
        work = getattr(state, "work", None)
        if getattr(state, "gone", False) or (work is not None and work.failed) or not messages:
            return False
        return bool(messages[0]["status"] == 200) and not messages[-1].get("more_body", False)
