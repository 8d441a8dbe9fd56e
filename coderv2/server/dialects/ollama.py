"""Ollama's `/api/generate` and `/api/chat`."""

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from coderv2.engine.request import Delta
from coderv2.server.backend import Backend
from coderv2.server.conversation import Conversation, assistant, result
from coderv2.server.dialects.ollama_models import time_of
from coderv2.server.door import Door, json_response
from coderv2.server.generation import Generation, Job
from coderv2.server.models import Models
from coderv2.server.sampling import room_for
from coderv2.server.schema.ollama import (
    GenerateRequest,
    OllamaChatRequest,
    OllamaMessage,
    OllamaRequest,
)
from coderv2.server.stream import LINES
from coderv2.server.structured import of_schema
from coderv2.server.turn import Turn, WholeTurn
from coderv2.text.chat import Message
from coderv2.text.fim import encode_fim
from coderv2.text.tools import Tool


def add_routes(app: FastAPI, door: Door) -> None:
    """`POST /api/generate`, `POST /api/chat`."""

    @app.post("/api/generate")
    async def post_generate(body: GenerateRequest, request: Request) -> Response:
        models = door.served().called(body.model)
        if not body.prompt and not body.suffix:
            return json_response(_loaded(models, {"response": ""}))
        work = await door.start(
            request, lambda models, caller: generate_job(body, models, control=caller.control_tokens)
        )
        if body.suffix:
            door.sessions.enter(request, work)
        talk = Conversation([], goes_on=bool(body.raw or body.suffix))
        return await door.reply(
            request, Replies(models.name, talk, work, _said), LINES if body.stream else None
        )

    @app.post("/api/chat")
    async def post_chat(body: OllamaChatRequest, request: Request) -> Response:
        models = door.served().called(body.model)
        if not body.messages:
            return json_response(_loaded(models, {"message": {"role": "assistant", "content": ""}}))
        talk = conversation(body)
        work = await door.start(request, lambda models, _: chat_job(body, talk, models.chat))
        return await door.reply(
            request, Replies(models.name, talk, work, _spoken), LINES if body.stream else None
        )


def generate_job(request: GenerateRequest, models: Models, *, control: bool = True) -> Job:
    """A hole where there is a suffix, raw text where asked for, else a user's message."""
    if request.suffix:
        models.text.check_infill()
        prompt = encode_fim(models.text.prompt_tokenizer, request.prompt, request.suffix)
        return _job(request, prompt, models.text)
    if request.raw:
        prompt = models.text.prompt_tokenizer.encode(request.prompt, bos=True, control=control)
        return _job(request, prompt, models.text)
    system = [Message("system", request.system)] if request.system else []
    talk = Conversation([*system, Message("user", request.prompt)])
    return _job(request, talk.prompt(models.chat.prompt_tokenizer), models.chat)


def chat_job(request: OllamaChatRequest, talk: Conversation, backend: Backend) -> Job:
    """The conversation as one prompt."""
    return _job(request, talk.prompt(backend.prompt_tokenizer), backend, talk)


def conversation(request: OllamaChatRequest) -> Conversation:
    """What is being talked about."""
    tools = [Tool(t.function.name, t.function.description, t.function.parameters) for t in request.tools]
    return Conversation([_told(message) for message in request.messages], tools)


def _told(message: OllamaMessage) -> Message:
    if message.role == "tool":
        return result(message.content)
    if message.role == "assistant":
        calls = [(call.function.name, json.dumps(call.function.arguments)) for call in message.tool_calls]
        return assistant(message.content, calls)
    return Message(message.role, message.content)


def _job(
    request: OllamaRequest, prompt: list[int], backend: Backend, talk: Conversation | None = None
) -> Job:
    options = request.options
    wanted = of_schema(None if request.format == "json" else request.format) if request.format else None
    params = backend.defaults.params(
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        min_p=options.min_p,
        max_tokens=room_for(
            options.num_predict if options.num_predict > 0 else None,
            len(prompt),
            backend.engine.max_model_len,
        ),
        stop=options.stop,
        seed=options.seed,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        repetition_penalty=options.repeat_penalty,
        structured_outputs=wanted if talk is None else talk.constraint(wanted),
    )
    return Job([prompt], params, backend)


class Replies:
    """Deltas in the shape of this API: lines, the last with what it took."""

    def __init__(
        self, model: str, talk: Conversation, work: Generation, write: Callable[[WholeTurn], dict[str, Any]]
    ) -> None:
        self._model = model
        self._turn = Turn(talk)
        self._work = work
        self._write = write

    async def whole(self) -> dict[str, Any]:
        """The answer to a request with `stream: false`."""
        whole = WholeTurn()
        async with aclosing(self._work.deltas()) as deltas:
            async for delta in deltas:
                self._hear(delta, whole)
        return self._header() | self._write(whole) | self._ending(whole)

    async def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        """The same line by line; a call is told when it is complete."""
        calls = WholeTurn()
        async with aclosing(self._work.deltas()) as deltas:
            async for delta in deltas:
                self._hear(delta, calls)
                if calls.text:
                    yield self._header() | self._write(WholeTurn(calls.text)) | {"done": False}
                    calls.text = ""
        if calls.calls:
            yield self._header() | self._write(calls) | {"done": False}
        yield self._header() | self._write(WholeTurn()) | self._ending(calls)

    def _hear(self, delta: Delta, whole: WholeTurn) -> None:
        whole.hear(self._turn.read(delta))
        whole.finish_reason = delta.finish_reason or ""

    def _header(self) -> dict[str, Any]:
        return {"model": self._model, "created_at": time_of()}

    def _ending(self, whole: WholeTurn) -> dict[str, Any]:
        usage, clock = self._work.usage, self._work.clock
        prompt, answer = round(clock.prompt_seconds * 1e9), round(clock.answer_seconds * 1e9)
        return {
            "done": True,
            "done_reason": whole.finish_reason,
            "total_duration": prompt + answer,
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": prompt,
            "eval_count": usage.completion_tokens,
            "eval_duration": answer,
            **usage.cache(),
        }


def _said(whole: WholeTurn) -> dict[str, Any]:
    return {"response": whole.text}


def _spoken(whole: WholeTurn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": whole.text}
    if whole.calls:
        message["tool_calls"] = [
            {"function": {"name": name, "arguments": whole.arguments(place)}}
            for place, (name, _) in enumerate(whole.calls)
        ]
    return {"message": message}


def _loaded(models: Models, nothing: dict[str, Any]) -> dict[str, Any]:
    return {"model": models.name, "created_at": time_of(), **nothing, "done": True, "done_reason": "load"}
