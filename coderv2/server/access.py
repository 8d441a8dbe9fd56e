"""Around every request: an id, headers that every reply has, one log line without any of its text, and the 500s."""

import time
from uuid import uuid4

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coderv2.log import logger
from coderv2.server.door import Door
from coderv2.server.errors import failure
from coderv2.server.roots import below_root

_CLIENT_GONE = 499
"""For the log only: nobody is left to read it."""


class Access:
    """Outermost of all: `request.state.request_id` is set from here on, and every reply names it."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the app; a failure before the reply began becomes an error of `errors`."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = request_id = f"req_{uuid4().hex}"
        began = time.perf_counter()
        reply = _Reply(send, state, began)
        try:
            await self._app(scope, receive, reply.send)
        except Exception as error:
            response = failure(error, request_id).response(below_root(scope["path"])[0], request_id)
            if not reply.status:
                await response(scope, receive, reply.send)
        finally:
            status = _CLIENT_GONE if state.get("gone") else reply.status
            self._end(scope, status, time.perf_counter() - began)

    def _end(self, scope: Scope, status: int, seconds: float) -> None:
        state = scope["state"]
        work, account = state.get("work"), state.get("account")
        self._door.metrics.end(state.get("route", "none"), status, seconds, work)
        if account is not None:
            account.end(work.usage.prompt_tokens + work.usage.completion_tokens if work else 0)
        _log(scope, status, seconds)


class _Reply:
    """Passes messages on, adds headers, and remembers the status."""

    def __init__(self, send: Send, state: dict[str, object], began: float) -> None:
        self._send = send
        self._state = state
        self._began = began
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = str(self._state["request_id"])
            headers["openai-processing-ms"] = str(round((time.perf_counter() - self._began) * 1000))
            caller = self._state.get("caller")
            headers.update(caller.account.headers() if caller and caller.account else {})  # type: ignore[attr-defined]
            if self.status == 409 or self.status == 402:
                headers["x-should-retry"] = "false"
        await self._send(message)


def _log(scope: Scope, status: int, seconds: float) -> None:
    state = scope["state"]
    caller, work = state.get("caller"), state.get("work")
    fields = {
        "method": scope["method"],
        "path": repr(scope["path"][:200])[1:-1].replace(" ", "\\x20"),
        "status": status,
        "ms": round(seconds * 1000),
        "key": caller.tenant if caller else "",
        "id": state["request_id"],
    }
    if work is not None:
        usage, first = work.usage, work.clock.first
        fields |= {
            "prompt": usage.prompt_tokens,
            "cached": usage.cached_tokens,
            "completion": usage.completion_tokens,
            "first_ms": round(work.clock.prompt_seconds * 1000) if first is not None else "",
        }
    logger.info("%s", " ".join(f"{name}={value}" for name, value in fields.items() if value != ""))
