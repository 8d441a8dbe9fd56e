"""What one connection may do: how long it may take to ask and to read, and how many may come from one address.

uvicorn has no such limits (uvicorn#157): a client that sends a byte a minute, or never reads, would hold its place.
"""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from coderv2.server.limits import MAX_HEADER_BYTES


@dataclass(frozen=True)
class ConnectionLimits:
    """Of one server."""

    header_seconds: float = 10.0
    """From the connection, or the request's first byte, to the end of its headers."""
    body_seconds: float = 60.0
    """From there to the end of the body."""
    stall_seconds: float = 30.0
    """That a client may leave a full buffer of ours unread."""
    per_address: int = 512


def guarded_protocol(limits: ConnectionLimits) -> type[H11Protocol]:
    """A protocol for uvicorn that keeps these limits; it counts the connections of all its instances."""
    return type("Guarded", (_Guarded,), {"limits": limits, "counts": Counter()})


class _Guarded(H11Protocol):
    limits: ConnectionLimits
    counts: Counter[str]
    _timer: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None
    _watched: Any = None
    _address = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes it in, or refuses one too many of its address."""
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        self.counts[self._address] += 1
        if self.counts[self._address] > self.limits.per_address:
            self._refuse(503, "overloaded", f"at most {self.limits.per_address} connections of one address")
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets it."""
        self.counts[self._address] -= 1
        if not self.counts[self._address]:
            del self.counts[self._address]
        self._cancel(self._timer, self._stall)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Reads, and keeps the time."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """A next request may have begun with the bytes of this one."""
        super().on_response_complete()
        if self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]:
            self._watch()

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        super().pause_writing()
        self._stall = self.loop.call_later(self.limits.stall_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._cancel(self._stall)

    def send_400_response(self, msg: str) -> None:
        """For what is no HTTP, in our words."""
        if len(self.conn.trailing_data[0]) > MAX_HEADER_BYTES:
            self._refuse(431, None, f"the headers are over {MAX_HEADER_BYTES} bytes")
        else:
            self._refuse(400, None, "this is no valid HTTP request")

    def _watch(self) -> None:
        """One timer: for the headers, then for the body."""
        state = self.conn.their_state
        if state is self._watched or self.transport.is_closing():
            return
        self._watched = state
        self._cancel(self._timer)
        if state is h11.IDLE:
            self._timer = self.loop.call_later(self.limits.header_seconds, self._late, "headers")
        elif state is h11.SEND_BODY:
            self._timer = self.loop.call_later(self.limits.body_seconds, self._late, "body")

    def _late(self, what: str) -> None:
        self._refuse(408, None, f"the {what} took too long")

    def _refuse(self, status: int, code: str | None, message: str) -> None:
        """A reply and the end, unless another has begun."""
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            type_ = "server_error" if status == 503 else "invalid_request_error"
            error = {"message": message, "type": type_, "param": None, "code": code}
            self.transport.write(_reply(status, json.dumps({"error": error}).encode()))
        self.transport.close()

    @staticmethod
    def _cancel(*timers: asyncio.TimerHandle | None) -> None:
        for timer in timers:
            if timer is not None:
                timer.cancel()


_PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


def _reply(status: int, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
