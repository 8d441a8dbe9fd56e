"""Mistral's `/fim/completions`: the same hole, the answer in a chat's shape."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from coderv2.server.backend import Backend
from coderv2.server.door import Door, names
from coderv2.server.generation import Generation, Job
from coderv2.server.sampling import room_for
from coderv2.server.schema.mistral import FimRequest
from coderv2.server.stream import EVENTS
from coderv2.text.fim import encode_fim


def add_routes(app: FastAPI, door: Door) -> None:
    """`POST /fim/completions`."""

    @app.post("/fim/completions")
    async def post_fim_completions(body: FimRequest, request: Request) -> Response:
        work = await door.start(request, lambda models, _: job(body, models.called(body.model).text))
        door.sessions.enter(request, work)
        header = {"id": names(request, "fim-"), "created": int(time.time()), "model": door.served().name}
        return await door.reply(request, Replies(header, work), EVENTS if body.stream else None)


def job(request: FimRequest, backend: Backend) -> Job:
    """Nothing in prefix and suffix becomes a control token."""
    backend.check_infill()
    prompt = encode_fim(backend.prompt_tokenizer, request.prompt, request.suffix)
    params = backend.defaults.params(
        temperature=request.temperature,
        top_p=request.top_p,
        max_tokens=room_for(request.max_tokens, len(prompt), backend.engine.max_model_len),
        min_tokens=request.min_tokens,
        stop=request.stop,
        seed=request.random_seed,
    )
    return Job([prompt], params, backend)


class Replies:
    """Deltas in the shape of this API; the last piece brings finish_reason and usage."""

    def __init__(self, header: dict[str, Any], work: Generation) -> None:
        self._header = header
        self._work = work

    async def whole(self) -> dict[str, Any]:
        """The answer to a request without `stream`."""
        (answer,) = await self._work.answers()
        message = {"role": "assistant", "content": answer.text, "tool_calls": None}
        choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason}
        return self._header | {
            "object": "chat.completion",
            "choices": [choice],
            "usage": self._work.usage.openai(),
        }

    async def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        """The same in pieces."""
        yield self._chunk({"role": "assistant", "content": ""}, None)
        async with aclosing(self._work.deltas()) as deltas:
            async for delta in deltas:
                if delta.text:
                    yield self._chunk({"content": delta.text}, None)
                if delta.finish_reason:
                    last = self._chunk({"content": ""}, delta.finish_reason)
                    yield last | {"usage": self._work.usage.openai()}

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return self._header | {"object": "chat.completion.chunk", "choices": [choice]}
