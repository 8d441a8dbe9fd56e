"""Our errors as HTTP: one table from the tree in `coderv2/errors.py` to status, type and code, one body for all.

400 stands where FastAPI would say 422, which client libraries map to another class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from coderv2.errors import (
    CoderV2Error,
    ContextTooLong,
    EngineStopped,
    ModelNotFound,
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
    """What a client is told: a status and OpenAI's error object."""

    status: int
    type: str
    code: str | None
    message: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """OpenAI's shape, also of an error event inside a stream."""
        message = self.message[:_MAX_MESSAGE]
        return {"error": {"message": message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The body with its status, and when to retry where that may help."""
        headers = dict(self.headers)
        if self.status == 503:
            headers["retry-after"] = "1"
        return Response(encode_json(self.body()), self.status, headers, "application/json")


# The first class that fits counts; what is not here is ours: 500, and only the request id goes out.
_TABLE: tuple[tuple[type[CoderV2Error], int, str, str], ...] = (
    (ContextTooLong, 400, _INVALID, "context_length_exceeded"),
    (Unsupported, 400, _INVALID, "unsupported_parameter"),
    (ModelNotFound, 404, "not_found_error", "model_not_found"),
    (UserError, 400, _INVALID, "invalid_value"),
    (QueueFull, 503, "server_error", "overloaded"),
)
_STATUSES = {
    400: (_INVALID, "invalid_json", "the body is not valid JSON"),
    404: ("not_found_error", "not_found", "no such route: {path}"),
    405: (_INVALID, None, "{method} is not allowed here"),
    413: (_INVALID, None, "the body is too large: {detail}"),
    415: (_INVALID, None, "the body must be JSON: send content-type: application/json"),
}


def failure(error: Exception, request_id: str) -> Failure:
    """What to tell the client. What is not the caller's doing is logged."""
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
    """Has the app answer these errors in this shape; all others are the business of `access`."""
    app.add_exception_handler(CoderV2Error, _on_our_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_body)
    app.add_exception_handler(HTTPException, _on_http_error)


async def _on_our_error(request: Request, error: Exception) -> Response:
    return failure(error, request.state.request_id).response()


async def _on_invalid_body(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        message = f"the body is not valid JSON: {first['ctx']['error']} at character {first['loc'][-1]}"
        return Failure(400, _INVALID, "invalid_json", message).response()
    code = first["type"] if first["type"] == "unsupported_parameter" else "invalid_value"
    param = _dotted(first["loc"][1:])
    message = first["msg"].removeprefix("Value error, ").replace("Input should", "should", 1)
    return Failure(400, _INVALID, code, f"{param or 'body'}: {message}", param).response()


def _dotted(place: Sequence[str | int]) -> str | None:
    """("messages", 0, "content") → messages[0].content"""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return path.removeprefix(".")[:100] or None


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    type_, code, message = _STATUSES.get(error.status_code, (_INVALID, None, "{detail}"))
    text = message.format(path=request.url.path[:200], method=request.method, detail=error.detail)
    return Failure(error.status_code, type_, code, text, headers=error.headers or {}).response()
