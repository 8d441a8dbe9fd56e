"""Around every request: an id, one log line without any of its text, and 500 for what nobody foresaw."""

import time
from uuid import uuid4

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coderv2.log import logger
from coderv2.server.errors import failure

_CLIENT_GONE = 499
"""For the log only: nobody is left to read it."""


class Access:
    """Outermost of all: `request.state.request_id` is set from here on, and every reply names it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the app; a failure before the reply began becomes the 500 of `errors`."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = request_id = f"req_{uuid4().hex}"
        reply = _Reply(send, request_id)
        began = time.perf_counter()
        try:
            await self._app(scope, receive, reply.send)
        except Exception as error:
            response = failure(error, request_id).response()
            if not reply.status:
                await response(scope, receive, reply.send)
        finally:
            status = _CLIENT_GONE if state.get("gone") else reply.status
            _log(scope, status, time.perf_counter() - began)


class _Reply:
    """Passes messages on, puts the id among the headers, and remembers the status."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["x-request-id"] = self._request_id
        await self._send(message)


def _log(scope: Scope, status: int, seconds: float) -> None:
    work = scope["state"].get("work")
    tokens = f" {work.prompt_tokens}+{work.completion_tokens} tokens" if work else ""
    logger.info(
        "%s %s %d %.0f ms%s %s",
        scope["method"],
        repr(scope["path"][:200])[1:-1],
        status,
        seconds * 1000,
        tokens,
        scope["state"]["request_id"],
    )
