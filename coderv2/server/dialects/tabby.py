"""Tabby's own API, which its editor plugins speak: `/completions` with `segments`, and what they ask besides."""

from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from coderv2.server.backend import Backend
from coderv2.server.door import Door, json_response, names
from coderv2.server.generation import Generation, Job
from coderv2.server.hole import encode_hole
from coderv2.server.sampling import room_for
from coderv2.server.schema.tabby import EventRequest, SegmentsRequest

MAX_TOKENS = 64
"""Of an answer: Tabby's default."""


def add_routes(app: FastAPI, door: Door) -> None:
    """`POST /events`, `GET /v1beta/server_setting`; `/completions` is where OpenAI's is."""

    @app.post("/events")
    async def post_events(body: EventRequest) -> Response:
        """Counted, and nothing else is kept."""
        door.metrics.seen(body.type)
        return json_response({})

    @app.get("/v1beta/server_setting")
    async def get_server_setting() -> Response:
        return json_response({"disable_client_side_telemetry": True})


async def complete(door: Door, body: SegmentsRequest, request: Request) -> Response:
    """The answer to a request with `segments`."""
    work = await door.start(request, lambda models, _: job(body, models.text))
    door.sessions.enter(request, work)
    return await door.whole(request, _written(names(request, "cmpl-"), work))


def job(request: SegmentsRequest, backend: Backend) -> Job:
    """Snippets stand before the hole, as other files of a repository do."""
    segments = request.segments
    files = [(snippet.filepath, snippet.body) for snippet in segments.snippets]
    prompt = encode_hole(backend, segments.prefix, segments.suffix or "\n", files, MAX_TOKENS)
    params = backend.defaults.params(
        temperature=request.temperature,
        max_tokens=room_for(MAX_TOKENS, len(prompt), backend.engine.max_model_len),
        seed=request.seed,
    )
    return Job([prompt], params, backend)


async def _written(id: str, work: Generation) -> dict[str, Any]:
    (answer,) = await work.answers()
    return {"id": id, "choices": [{"index": 0, "text": answer.text}]}
