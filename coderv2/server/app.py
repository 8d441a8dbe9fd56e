"""The routes: each reads a body, has its dialect translate it, and answers whole or as a stream."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from coderv2.server import errors
from coderv2.server.access import Access
from coderv2.server.defaults import SamplingDefaults
from coderv2.server.dialects import chat, completions
from coderv2.server.generation import Engine, Generation, Job
from coderv2.server.limits import BodyLimit
from coderv2.server.models import ServedModel
from coderv2.server.sampling import check_stream_options, refuse_what_is_not_honoured
from coderv2.server.schema import ChatRequest, CompletionRequest, Sampling
from coderv2.server.stream import EventStream, encode_json, events, unless_gone
from coderv2.text.tokenizer import Tokenizer


def create_app(
    engine: Engine, tokenizer: Tokenizer, model_name: str, defaults: SamplingDefaults | None = None
) -> FastAPI:
    """The app over an engine that the caller starts and stops. Every route answers with and without /v1."""
    model = ServedModel(model_name, engine.max_model_len, fim=tokenizer.fim is not None)
    service = _Service(engine, tokenizer, model, defaults or SamplingDefaults())
    app = FastAPI(title="coderv2", docs_url=None, redoc_url=None, redirect_slashes=False)
    errors.install(app)
    app.add_middleware(BodyLimit)
    app.add_middleware(Access)
    app.include_router(_generation_routes(service), prefix="/v1")
    app.include_router(_generation_routes(service), include_in_schema=False)
    app.include_router(_state_routes(service), prefix="/v1")
    app.include_router(_state_routes(service), include_in_schema=False)
    return app


@dataclass(frozen=True)
class _Service:
    """What the routes share."""

    engine: Engine
    tokenizer: Tokenizer
    model: ServedModel
    defaults: SamplingDefaults


def _generation_routes(service: _Service) -> APIRouter:
    router = APIRouter(dependencies=[Depends(_only_json)])

    @router.post("/completions")
    async def post_completions(body: CompletionRequest, request: Request) -> Response:
        return await _answer(service, request, body, completions.job, completions.Replies, "cmpl-")

    @router.post("/chat/completions")
    async def post_chat_completions(body: ChatRequest, request: Request) -> Response:
        return await _answer(service, request, body, chat.job, chat.Replies, "chatcmpl-")

    return router


def _state_routes(service: _Service) -> APIRouter:
    router = APIRouter()

    @router.get("/models")
    async def get_models() -> Response:
        return _json({"object": "list", "data": [service.model.card()]})

    @router.get("/models/{name:path}")
    async def get_model(name: str) -> Response:
        service.model.check(name)
        return _json(service.model.card())

    @router.get("/health")
    async def get_health() -> Response:
        healthy = service.engine.healthy()
        return _json({"status": "ok" if healthy else "stopped"}, 200 if healthy else 503)

    return router


def _only_json(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise HTTPException(415)


_Body = TypeVar("_Body", bound=Sampling)
_Translate = Callable[[_Body, Tokenizer, SamplingDefaults, int], Job]


class _Replies(Protocol):
    async def whole(self) -> dict[str, Any]: ...

    def chunks(self) -> AsyncGenerator[dict[str, Any], None]: ...


_Reply = Callable[[dict[str, Any], _Body, Tokenizer, Generation], _Replies]


async def _answer(
    service: _Service,
    request: Request,
    body: _Body,
    translate: _Translate[_Body],
    reply: _Reply[_Body],
    id_prefix: str,
) -> Response:
    service.model.check(body.model)
    refuse_what_is_not_honoured(body)
    check_stream_options(body)
    # In a thread: a prompt of megabytes takes the tokenizer seconds, and other streams must go on.
    job = await asyncio.to_thread(
        translate, body, service.tokenizer, service.defaults, service.model.max_model_len
    )
    request_id: str = request.state.request_id
    request.state.work = work = Generation(service.engine, job)
    header = {
        "id": request_id.replace("req_", id_prefix),
        "created": int(time.time()),
        "model": service.model.name,
    }
    replies = reply(header, body, service.tokenizer, work)
    if body.stream:
        return EventStream(events(replies.chunks(), lambda error: errors.failure(error, request_id).body()))
    whole = await unless_gone(request, replies.whole())
    return _json(whole) if whole is not None else Response(status_code=499)


def _json(value: Any, status: int = 200) -> Response:
    return Response(encode_json(value), status, media_type="application/json")
