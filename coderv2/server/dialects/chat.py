"""OpenAI's `/chat/completions`; a last assistant message with `prefix: true` is continued."""

import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request
from starlette.responses import Response

from coderv2.engine.request import Delta, TokenLogprob
from coderv2.errors import InvalidValue
from coderv2.server.backend import Backend
from coderv2.server.conversation import Conversation, assistant, result
from coderv2.server.door import Door, names
from coderv2.server.generation import Answer, Generation, Job
from coderv2.server.logprobs import chat_logprobs
from coderv2.server.sampling import sampling_params
from coderv2.server.schema.openai import ChatMessage, ChatRequest, NamedChoice
from coderv2.server.stream import EVENTS
from coderv2.server.turn import Turn, whole_turn
from coderv2.text.chat import Message
from coderv2.text.toolcalls import Arguments, CallBegun, Piece, Said
from coderv2.text.tools import Tool


def add_routes(app: FastAPI, door: Door) -> None:
    """`POST /chat/completions`."""

    @app.post("/chat/completions")
    async def post_chat_completions(body: ChatRequest, request: Request) -> Response:
        talk = conversation(body)
        work = await door.start(request, lambda models, _: job(body, talk, models.called(body.model).chat))
        header = {
            "id": names(request, "chatcmpl-"),
            "created": int(time.time()),
            "model": door.served().name,
        }
        return await door.reply(request, Replies(header, body, talk, work), EVENTS if body.stream else None)


def job(request: ChatRequest, talk: Conversation, backend: Backend) -> Job:
    """The conversation as one prompt; nothing in it becomes a control token."""
    params = sampling_params(
        request,
        backend.defaults,
        max_tokens=request.max_completion_tokens or request.max_tokens,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        constrain=talk.constraint,
    )
    return Job([talk.prompt(backend.prompt_tokenizer)], params, backend, request.priority)


def conversation(request: ChatRequest) -> Conversation:
    """What is being talked about, whoever answers."""
    _check(request)
    messages, goes_on = _messages(request)
    choice = request.tool_choice
    named = isinstance(choice, NamedChoice)
    return Conversation(
        messages,
        tools=[
            Tool(t.function.name, t.function.description, t.function.parameters, t.function.strict)
            for t in request.tools
        ],
        choice="named" if isinstance(choice, NamedChoice) else choice,
        only=choice.function.name if isinstance(choice, NamedChoice) else "",
        several=request.parallel_tool_calls and not named,
        goes_on=goes_on,
    )


def _check(request: ChatRequest) -> None:
    limits = {request.max_tokens, request.max_completion_tokens} - {None}
    if len(limits) > 1:
        raise InvalidValue(
            "max_tokens and max_completion_tokens differ; send one", param="max_completion_tokens"
        )
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidValue("top_logprobs needs logprobs: true", param="top_logprobs")
    last = len(request.messages) - 1
    for place, message in enumerate(request.messages):
        if message.prefix and (place != last or message.role != "assistant"):
            raise InvalidValue(
                "prefix is for a last message of the assistant's", param=f"messages[{place}].prefix"
            )


def _messages(request: ChatRequest) -> tuple[list[Message], bool]:
    """The messages, and whether the answer goes on with the last."""
    messages = told(request.messages)
    if not request.messages[-1].prefix:
        return messages, False
    # Nothing to go on with: the template's space would stand alone after `Assistant:`, which spoils the answer.
    if not messages[-1].content.strip(" "):
        return messages[:-1], False
    return messages, True


def told(messages: Sequence[ChatMessage]) -> list[Message]:
    """OpenAI's turns as the model reads them."""
    return [_told(message) for message in messages]


def _told(message: ChatMessage) -> Message:
    if message.role in ("tool", "function"):
        return result(message.content)
    if message.role == "assistant":
        calls = [(call.function.name, call.function.arguments) for call in message.tool_calls]
        return assistant(message.content, calls)
    return Message(message.role, message.content)


class Replies:
    """Deltas in the shape of this API."""

    def __init__(
        self, header: dict[str, Any], request: ChatRequest, talk: Conversation, work: Generation
    ) -> None:
        self._header = header
        self._request = request
        self._talk = talk
        self._work = work
        self._turns = [Turn(talk) for _ in range(work.choices)]

    async def whole(self) -> dict[str, Any]:
        """The answer to a request without `stream`."""
        choices = [self._choice(index, answer) for index, answer in enumerate(await self._work.answers())]
        usage = self._work.usage.openai()
        return self._header | {"object": "chat.completion", "choices": choices, "usage": usage}

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        turn = whole_turn(self._talk, answer.text, answer.finish_reason)
        message: dict[str, Any] = {"role": "assistant", "content": turn.text, "refusal": None}
        if turn.calls:
            message["content"] = turn.text or None
            message["tool_calls"] = [
                {"id": call_id(), "type": "function", "function": {"name": name, "arguments": arguments}}
                for name, arguments in turn.calls
            ]
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(answer.logprobs),
            "finish_reason": turn.finish_reason,
        }

    async def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        """The same in pieces: role first, text, a finish_reason without text, the usage without a choice."""
        for index in range(self._work.choices):
            yield self._chunk([self._piece(index, {"role": "assistant", "content": ""})])
        async with aclosing(self._work.deltas()) as deltas:
            async for delta in deltas:
                for piece in self._pieces(delta):
                    yield self._chunk([piece])
        if self._request.wants_usage:
            yield self._chunk([]) | {"usage": self._work.usage.openai()}

    def _pieces(self, delta: Delta) -> Iterator[dict[str, Any]]:
        turn, places = self._turns[delta.index], delta.logprobs or ()
        for told in turn.read(delta) or ([Said("")] if places else []):
            yield self._piece(delta.index, _delta(told), places)
            places = ()
        if delta.finish_reason:
            reason = turn.ended(delta.finish_reason)
            yield self._piece(delta.index, {"content": ""}) | {"finish_reason": reason}

    def _piece(
        self, index: int, delta: dict[str, Any], places: Sequence[TokenLogprob] = ()
    ) -> dict[str, Any]:
        logprobs = self._logprobs(places)
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        usage = {"usage": None} if self._request.wants_usage else {}
        return self._header | {"object": "chat.completion.chunk", "choices": choices} | usage

    def _logprobs(self, places: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        return chat_logprobs(self._work.job.backend.tokenizer, places) if places else None


def call_id() -> str:
    """A call's name for its result."""
    return f"call_{uuid4().hex[:24]}"


def _delta(piece: Piece) -> dict[str, Any]:
    match piece:
        case Said(text):
            return {"content": text}
        case CallBegun(index, name):
            function = {"name": name, "arguments": ""}
            return {
                "tool_calls": [{"index": index, "id": call_id(), "type": "function", "function": function}]
            }
        case Arguments(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
