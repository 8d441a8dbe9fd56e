"""Our errors as HTTP: one table from the tree in `coderv2/errors.py` to status, type and code, and their three bodies.

400 stands where FastAPI would say 422, which client libraries map to another class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from coderv2.errors import (
    CoderV2Error,
    ContextTooLong,
    EngineStopped,
    ModelNotFound,
    NoAnswer,
    QueueFull,
    Unsupported,
    UserError,
)
from coderv2.log import logger
from coderv2.server.stream import encode_json

_INVALID = "invalid_request_error"
_MAX_MESSAGE = 1000


@dataclass(frozen=True)
class Failure:
    """What a client is told."""

    status: int
    type: str
    code: str | None
    message: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self, path: str, request_id: str) -> dict[str, Any]:
        """In the shape of the family that the path belongs to, also as an event inside a stream."""
        message = self.message[:_MAX_MESSAGE]
        if path.startswith("/api/"):
            return {"error": message}
        if path.startswith("/messages"):
            type_ = _ANTHROPIC_TYPES.get(self.status, self.type)
            return {
                "type": "error",
                "error": {"type": type_, "message": message},
                "request_id": request_id,
            }
        return {"error": {"message": message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self, path: str, request_id: str) -> Response:
        """The body with its status, and when to retry where that may help."""
        headers = dict(self.headers)
        if self.status == 503:
            headers.setdefault("retry-after", "1")
        return Response(encode_json(self.body(path, request_id)), self.status, headers, "application/json")


class Refused(Exception):
    """The door itself says no: who asks, how much, when."""

    def __init__(
        self,
        status: int,
        code: str | None,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.failure = Failure(status, type, code, message, param, headers or {})


_ANTHROPIC_TYPES = {500: "api_error", 503: "overloaded_error", 504: "timeout_error"}
# The first class that fits counts; what is not here is ours: 500, and only the request id goes out.
_TABLE: tuple[tuple[type[CoderV2Error], int, str, str], ...] = (
    (ContextTooLong, 400, _INVALID, "context_length_exceeded"),
    (Unsupported, 400, _INVALID, "unsupported_parameter"),
    (ModelNotFound, 404, "not_found_error", "model_not_found"),
    (UserError, 400, _INVALID, "invalid_value"),
    (QueueFull, 503, "server_error", "overloaded"),
    (NoAnswer, 504, "server_error", "upstream_timeout"),
)
_STATUSES = {
    400: (_INVALID, "invalid_json", "the body is not valid JSON"),
    404: ("not_found_error", "not_found", "there is no such route; GET /openapi.json lists those there are"),
    405: (_INVALID, None, "this method is not allowed here; use {allow}"),
    413: (_INVALID, None, "the body is too large: {detail}"),
}


def failure(error: Exception, request_id: str) -> Failure:
    """What to tell the client. What is not the caller's doing is logged."""
    if isinstance(error, Refused):
        return error.failure
    if isinstance(error, HTTPException):
        return _of_status(error)
    if isinstance(error, ClientDisconnect):
        return Failure(499, _INVALID, None, "the client went away while it was asking")
    for kind, status, type_, code in _TABLE:
        if isinstance(error, kind):
            return Failure(status, type_, code, str(error), getattr(error, "param", None))
    if isinstance(error, EngineStopped):
        logger.warning("%s refused: %s", request_id, error)
        return Failure(503, "server_error", "draining", "the server is shutting down")
    logger.error("%s failed", request_id, exc_info=error)
    return Failure(
        500, "server_error", "internal_error", f"internal error; the server logged it as {request_id}"
    )


def install(app: FastAPI) -> None:
    """Has the app answer these errors in these shapes; all others are the business of `access`."""
    for kind in (CoderV2Error, Refused, HTTPException):
        app.add_exception_handler(kind, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_body)


def answer(request: Request, told: Failure) -> Response:
    """The response to this request."""
    return told.response(request.url.path, request.state.request_id)


async def _on_error(request: Request, error: Exception) -> Response:
    return answer(request, failure(error, request.state.request_id))


async def _on_invalid_body(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    code = first["type"] if first["type"] == "unsupported_parameter" else "invalid_value"
    param = _dotted(first["loc"][1:])
    message = first["msg"].removeprefix("Value error, ").replace("Input should", "should", 1)
    return answer(request, Failure(400, _INVALID, code, f"{param or 'body'}: {message}", param))


def unnamed(shape: str) -> str:
    """The tag of one of several shapes of a body: no field, so that it is left out of `param`."""
    return f"<{shape}>"


def _dotted(place: Sequence[str | int]) -> str | None:
    """("messages", 0, "content") → messages[0].content"""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    path = "".join(part for part in parts if not part.startswith(".<"))
    return path.removeprefix(".")[:100] or None


def _of_status(error: HTTPException) -> Failure:
    type_, code, message = _STATUSES.get(error.status_code, (_INVALID, None, "{detail}"))
    headers = error.headers or {}
    text = message.format(detail=error.detail, allow=headers.get("Allow"))
    return Failure(error.status_code, type_, code, text, headers=headers)
