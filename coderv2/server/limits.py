"""How large a request may be: its headers, and its body as sent and as inflated."""

import zlib

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coderv2.server.errors import Refused

MAX_HEADER_BYTES = 32 << 10
MAX_BODY_BYTES = 8 << 20
_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""zlib's names for the two formats that clients send."""


class SizeLimits:
    """Ends the reading of a body with 413 past `limit` bytes, announced or not; a compressed one counts inflated."""

    def __init__(self, app: ASGIApp, limit: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts what the app receives."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if sum(len(name) + len(value) + 4 for name, value in scope["headers"]) > MAX_HEADER_BYTES:
            raise Refused(431, None, f"the headers are over {MAX_HEADER_BYTES} bytes")
        headers = dict(scope["headers"])
        body = _Body(receive, self._limit, _inflater(headers.get(b"content-encoding", b"").decode("latin-1")))
        announced = headers.get(b"content-length", b"0")
        if not announced.isdigit() or int(announced[:20]) > self._limit:
            body.received = self._limit + 1
        await self._app(scope, body.receive, send)


class _Body:
    """Counts and inflates, piece by piece."""

    def __init__(self, receive: Receive, limit: int, inflate: "zlib._Decompress | None") -> None:
        self._receive = receive
        self._limit = limit
        self._inflate = inflate
        self.received = 0

    async def receive(self) -> Message:
        if self.received > self._limit:
            raise self._too_large()
        message = await self._receive()
        if message["type"] == "http.request":
            message = {**message, "body": self._count(message.get("body", b""))}
        return message

    def _count(self, sent: bytes) -> bytes:
        body = sent if self._inflate is None else self._inflated(self._inflate, sent)
        self.received += len(body)
        if self.received > self._limit:
            raise self._too_large()
        return body

    def _inflated(self, inflate: "zlib._Decompress", sent: bytes) -> bytes:
        try:
            return inflate.decompress(sent, self._limit - self.received + 1)
        except zlib.error:
            raise Refused(
                400, "invalid_value", "the body is not compressed as its content-encoding says"
            ) from None

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"at most {self._limit} bytes are taken", {"connection": "close"})


def _inflater(encoding: str) -> "zlib._Decompress | None":
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return None
    if name not in _WINDOWS:
        raise Refused(415, None, "a body's content-encoding may be gzip or deflate")
    return zlib.decompressobj(_WINDOWS[name])
