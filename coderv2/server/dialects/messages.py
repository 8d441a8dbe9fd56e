"""Anthropic's `/messages` and `/messages/count_tokens`.

`input_tokens` is the whole prompt, as `count_tokens` says; what the cache gave of it stands beside, under DeepSeek's
names.
"""

import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request
from starlette.responses import Response

from coderv2.engine.request import Delta
from coderv2.server.backend import Backend
from coderv2.server.conversation import Conversation, assistant, result
from coderv2.server.door import Door, aside, json_response, names
from coderv2.server.generation import Generation, Job
from coderv2.server.schema.messages import (
    CountRequest,
    InputMessage,
    MessagesRequest,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from coderv2.server.stream import NAMED_EVENTS
from coderv2.server.turn import Turn, WholeTurn
from coderv2.text.chat import Message
from coderv2.text.toolcalls import Arguments, CallBegun, Piece, Said
from coderv2.text.tools import Tool

_CHOICES = {"auto": "auto", "any": "required", "tool": "named", "none": "none"}
_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_THEIR_NAMES = "claude-"
"""Names of Anthropic's own models, which its clients send, mean the model that is here."""


def add_routes(app: FastAPI, door: Door) -> None:
    """`POST /messages`, `POST /messages/count_tokens`."""

    @app.post("/messages")
    async def post_messages(body: MessagesRequest, request: Request) -> Response:
        talk = conversation(body)
        work = await door.start(
            request, lambda models, _: job(body, talk, models.called(body.model, also=_THEIR_NAMES).chat)
        )
        replies = Replies(names(request, "msg_"), body.model or door.served().name, talk, work)
        return await door.reply(request, replies, NAMED_EVENTS if body.stream else None)

    @app.post("/messages/count_tokens")
    async def post_count_tokens(body: CountRequest, request: Request) -> Response:
        models = door.served().called(body.model, also=_THEIR_NAMES)
        prompt = await aside(request, lambda: conversation(body).prompt(models.chat.count_tokenizer))
        return json_response({"input_tokens": len(prompt)})


def job(request: MessagesRequest, talk: Conversation, backend: Backend) -> Job:
    """The conversation as one prompt; nothing in it becomes a control token."""
    params = backend.defaults.params(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        max_tokens=request.max_tokens,
        stop=request.stop_sequences,
        structured_outputs=talk.constraint(),
    )
    return Job([talk.prompt(backend.prompt_tokenizer)], params, backend)


def conversation(request: CountRequest) -> Conversation:
    """What is being talked about; a last message of the assistant's is continued."""
    messages = [told for message in request.messages for told in _told(message)]
    if request.system:
        messages.insert(0, Message("system", request.system))
    choice = request.tool_choice
    return Conversation(
        messages,
        tools=[Tool(t.name, t.description, t.input_schema, t.strict) for t in request.tools],
        choice=_CHOICES[choice.type],
        only=choice.name,
        several=not choice.disable_parallel_tool_use and choice.type != "tool",
        goes_on=_goes_on(request.messages[-1]),
    )


def _goes_on(last: InputMessage) -> bool:
    return last.role == "assistant" and bool(_text(last).strip(" ")) and not _uses(last)


def _blocks(message: InputMessage) -> Sequence[Any]:
    content = message.content
    return [TextBlock(type="text", text=content)] if isinstance(content, str) else content


def _text(message: InputMessage) -> str:
    return "".join(block.text for block in _blocks(message) if isinstance(block, TextBlock))


def _uses(message: InputMessage) -> list[ToolUseBlock]:
    return [block for block in _blocks(message) if isinstance(block, ToolUseBlock)]


def _told(message: InputMessage) -> list[Message]:
    if message.role == "assistant":
        return [assistant(_text(message), [(use.name, json.dumps(use.input)) for use in _uses(message)])]
    results = [result(block.content) for block in _blocks(message) if isinstance(block, ToolResultBlock)]
    text = _text(message)
    return results + ([Message(message.role, text)] if text or not results else [])


class Replies:
    """Deltas in the shape of this API."""

    def __init__(self, id: str, model: str, talk: Conversation, work: Generation) -> None:
        self._header = {"id": id, "type": "message", "role": "assistant", "model": model}
        self._turn = Turn(talk)
        self._work = work
        self._open: str | None = None
        self._index = -1

    async def whole(self) -> dict[str, Any]:
        """The answer to a request without `stream`."""
        whole, last = WholeTurn(), None
        async with aclosing(self._work.deltas()) as deltas:
            async for last in deltas:
                whole.hear(self._turn.read(last))
        assert last is not None
        content: list[dict[str, Any]] = (
            [{"type": "text", "text": whole.text}] if whole.text or not whole.calls else []
        )
        content += [
            {"type": "tool_use", "id": _use_id(), "name": name, "input": whole.arguments(place)}
            for place, (name, _) in enumerate(whole.calls)
        ]
        return self._header | {"content": content, **self._ending(last), "usage": self._usage()}

    async def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        """The same as events."""
        nothing: dict[str, Any] = {
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._usage(),
        }
        yield {"type": "message_start", "message": self._header | nothing}
        async with aclosing(self._work.deltas()) as deltas:
            async for delta in deltas:
                for piece in self._turn.read(delta):
                    for event in self._events(piece):
                        yield event
                if delta.finish_reason:
                    for event in self._last_events(delta):
                        yield event

    def _events(self, piece: Piece) -> Iterator[dict[str, Any]]:
        match piece:
            case Said(text):
                if self._open != "text":
                    yield from self._begin("text", {"text": ""})
                yield self._delta({"type": "text_delta", "text": text})
            case CallBegun(_, name):
                yield from self._begin("tool_use", {"id": _use_id(), "name": name, "input": {}})
            case Arguments(_, text):
                yield self._delta({"type": "input_json_delta", "partial_json": text})

    def _begin(self, kind: str, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from self._end()
        self._open, self._index = kind, self._index + 1
        yield {"type": "content_block_start", "index": self._index, "content_block": {"type": kind, **block}}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _end(self) -> Iterator[dict[str, Any]]:
        if self._open is not None:
            yield {"type": "content_block_stop", "index": self._index}

    def _last_events(self, delta: Delta) -> Iterator[dict[str, Any]]:
        yield from self._end()
        yield {"type": "message_delta", "delta": self._ending(delta), "usage": self._usage()}
        yield {"type": "message_stop"}

    def _ending(self, delta: Delta) -> dict[str, Any]:
        if isinstance(delta.stop_reason, str):
            return {"stop_reason": "stop_sequence", "stop_sequence": delta.stop_reason}
        reason = self._turn.ended(delta.finish_reason or "")
        return {"stop_reason": _REASONS.get(reason, reason), "stop_sequence": None}

    def _usage(self) -> dict[str, int]:
        usage = self._work.usage
        counts = {"input_tokens": usage.prompt_tokens, "output_tokens": usage.completion_tokens}
        return counts | usage.cache()


def _use_id() -> str:
    return f"toolu_{uuid4().hex[:24]}"
