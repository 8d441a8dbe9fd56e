"""The app: every dialect's routes over one door, and what stands around them."""

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from coderv2.server import errors, health
from coderv2.server.access import Access
from coderv2.server.backend import Backend, Engine, why_no_infill
from coderv2.server.defaults import SamplingDefaults
from coderv2.server.dialects import (
    chat,
    completions,
    llamacpp,
    messages,
    mistral,
    ollama,
    ollama_models,
    openai,
    responses,
    tabby,
)
from coderv2.server.door import Door
from coderv2.server.guard import GuardedRoute
from coderv2.server.hosts import Hosts
from coderv2.server.limits import SizeLimits
from coderv2.server.models import Models
from coderv2.server.roots import Roots
from coderv2.text.tokenizer import Tokenizer

_DIALECTS = (
    *(openai, chat, completions, responses, mistral, messages),
    *(llamacpp, ollama, ollama_models, tabby, health),
)
_SERVERS = [{"url": root} for root in ("/v1", "/", "/beta", "/v1/beta", "/anthropic/v1")]


def create_app(door: Door, *, hosts: Sequence[str] = (), origins: Sequence[str] = ()) -> FastAPI:
    """The app over engines that the caller starts and stops.

    It answers to addresses, localhost and `hosts`; web pages of `origins` may use it, by default none.
    """
    app = FastAPI(
        title="coderv2",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        servers=_SERVERS,
    )
    app.router.route_class = GuardedRoute
    app.state.door = door
    errors.install(app)
    app.add_middleware(SizeLimits)
    if origins:
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(Hosts, allowed=hosts)
    app.add_middleware(Roots)
    app.add_middleware(Access, door=door)
    for dialect in _DIALECTS:
        dialect.add_routes(app, door)
    return app


def simple_app(
    engine: Engine, tokenizer: Tokenizer, name: str, defaults: SamplingDefaults | None = None
) -> FastAPI:
    """Over one engine, without keys."""
    backend = Backend(engine, tokenizer, defaults or SamplingDefaults(), why_no_infill(tokenizer))
    return create_app(Door(Models.of(name, backend)))
