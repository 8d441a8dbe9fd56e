"""A stand-in for another server: its list of models and its stream of completions, as recorded from its kind."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


class StandIn:
    """Remembers what it was sent; `status` other than 200 is what it answers."""

    def __init__(
        self, owned_by: str = "vllm", *, texts: tuple[str, ...] = ("a", "b"), usage: bool = True
    ) -> None:
        self.owned_by = owned_by
        self.texts = texts
        self.usage = usage
        self.status = 200
        self.breaks_after: int | None = None
        self.model = "their-model"
        self.stopped: dict[str, Any] = {}
        """What its last event says of the stop that was met."""
        self.hangs: float = 0.0
        """Seconds before the first event."""
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.app = Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/completions", self._completions, methods=["POST"]),
            ]
        )

    async def _models(self, request: Request) -> Response:
        card = {"id": self.model, "object": "model", "owned_by": self.owned_by, "max_model_len": 4096}
        return JSONResponse({"object": "list", "data": [card]})

    async def _completions(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        self.keys.append(request.headers.get("authorization"))
        if body["model"] not in (self.model, "m"):
            return JSONResponse({"error": {"message": f"there is no {body['model']} here"}}, 404)
        if self.status != 200:
            return JSONResponse({"error": {"message": "no"}}, self.status)
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def _events(self) -> AsyncGenerator[str, None]:
        await asyncio.sleep(self.hangs)
        for place, text in enumerate(self.texts):
            if place == self.breaks_after:
                yield 'data: {"error": {"message": "out of memory"}}\n\n'
                return
            choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": None}
            if self.owned_by == "vllm":
                choice["token_ids"] = [65 + place]
            yield f"data: {json.dumps({'choices': [choice]})}\n\n"
        last = {"index": 0, "text": "", "finish_reason": "stop", **self.stopped}
        yield f"data: {json.dumps({'choices': [last]})}\n\n"
        if self.usage:
            usage = {
                "prompt_tokens": 9,
                "completion_tokens": 7,
                "prompt_tokens_details": {"cached_tokens": 4},
            }
            yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"
