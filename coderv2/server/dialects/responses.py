"""OpenAI's `/responses`."""

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request
from starlette.responses import Response

from coderv2.engine.grammar import StructuredOutputsParams
from coderv2.errors import InvalidValue
from coderv2.server.backend import Backend
from coderv2.server.conversation import Conversation, assistant, result
from coderv2.server.dialects.chat import call_id
from coderv2.server.door import Door, json_response, names
from coderv2.server.errors import Failure, Refused
from coderv2.server.generation import Generation, Job
from coderv2.server.schema.responses import (
    CallItem,
    MessageItem,
    NamedTool,
    ResponseRequest,
    ResultItem,
    TextFormat,
)
from coderv2.server.stored import Shelf, StoredResponses
from coderv2.server.stream import NAMED_EVENTS
from coderv2.server.structured import of_schema
from coderv2.server.turn import Turn, WholeTurn
from coderv2.text.chat import Message
from coderv2.text.toolcalls import Arguments, CallBegun, Piece, Said
from coderv2.text.tools import Tool

_CANCELLED = "cancelled"
"""The code of what somebody called off, and the status."""


def add_routes(app: FastAPI, door: Door) -> None:
    """`POST /responses`, `GET` and `DELETE /responses/{id}`, `POST /responses/{id}/cancel`."""
    stored = StoredResponses()

    @app.post("/responses")
    async def post_responses(body: ResponseRequest, request: Request) -> Response:
        tenant = request.state.caller.tenant
        talk = conversation(body, _before(body, stored, tenant))
        work = await door.start(
            request,
            lambda models, _: job(body, talk, models.called(body.model).chat),
            long=body.previous_response_id is not None,
        )
        id = names(request, "resp_")
        replies = Replies(id, door.served().name, body, talk, work, Shelf(stored, tenant, id, body.store))
        return await door.reply(request, replies, NAMED_EVENTS if body.stream else None, replies.failed)

    @app.get("/responses/{id}")
    async def get_response(id: str, request: Request) -> Response:
        return json_response(stored.get(request.state.caller.tenant, id).response)

    @app.delete("/responses/{id}")
    async def delete_response(id: str, request: Request) -> Response:
        stored.delete(request.state.caller.tenant, id)
        return json_response({"id": id, "object": "response", "deleted": True})

    @app.post("/responses/{id}/cancel")
    async def cancel_response(id: str, request: Request) -> Response:
        tenant = request.state.caller.tenant
        work = stored.running.get((tenant, id))
        if work is None:
            stored.get(tenant, id)
            raise InvalidValue("the response has ended already", param="id")
        work.abandon(Refused(499, _CANCELLED, "the response was cancelled"))
        return json_response({"id": id, "object": "response", "status": _CANCELLED})


def _before(request: ResponseRequest, stored: StoredResponses, tenant: str) -> list[Message]:
    if request.previous_response_id is None:
        return []
    return list(stored.get(tenant, request.previous_response_id).messages)


def job(request: ResponseRequest, talk: Conversation, backend: Backend) -> Job:
    """The conversation as one prompt; nothing in it becomes a control token."""
    params = backend.defaults.params(
        temperature=request.temperature,
        top_p=request.top_p,
        max_tokens=request.max_output_tokens,
        structured_outputs=talk.constraint(_wanted(request.text.format)),
    )
    return Job([talk.prompt(backend.prompt_tokenizer)], params, backend)


def _wanted(format: TextFormat) -> StructuredOutputsParams | None:
    if format.type == "text":
        return None
    if format.type == "json_schema" and format.json_schema is None:
        raise InvalidValue("type json_schema needs a schema", param="text.format.schema")
    return of_schema(format.json_schema if format.type == "json_schema" else None)


def conversation(request: ResponseRequest, before: list[Message]) -> Conversation:
    """What is being talked about, after what was said `before`."""
    messages = before + _messages(request)
    if not messages:
        raise InvalidValue("input is empty: there is nothing to answer", param="input")
    if request.instructions:
        messages = [Message("system", request.instructions), *messages]
    choice = request.tool_choice
    named = choice if isinstance(choice, NamedTool) else None
    return Conversation(
        messages,
        tools=[Tool(t.name, t.description, t.parameters, t.strict) for t in request.tools],
        choice="named" if isinstance(choice, NamedTool) else choice,
        only=named.name if named else "",
        several=request.parallel_tool_calls and named is None,
    )


def _messages(request: ResponseRequest) -> list[Message]:
    if isinstance(request.input, str):
        return [Message("user", request.input)] if request.input else []
    messages: list[Message] = []
    for item in request.input:
        match item:
            case MessageItem():
                messages.append(Message(item.role, item.content))
            case CallItem():
                messages.append(assistant("", [(item.name, item.arguments)]))
            case ResultItem():
                messages.append(result(item.output))
    return messages


class Replies:
    """Deltas in the shape of this API."""

    def __init__(
        self,
        id: str,
        model: str,
        request: ResponseRequest,
        talk: Conversation,
        work: Generation,
        shelf: Shelf,
    ) -> None:
        # Instructions hold for one answer: what follows it brings its own.
        self._before = talk.messages[1:] if request.instructions else talk.messages
        self._turn = Turn(talk)
        self._work = work
        self._shelf = shelf
        self._heard = WholeTurn()
        self._number = -1
        self._output: list[dict[str, Any]] = []
        self._response = _header(id, model, request)

    async def whole(self) -> dict[str, Any]:
        """The answer to a request without `stream`."""
        async with aclosing(self.chunks()) as events:
            *_, last = [event async for event in events]
        response: dict[str, Any] = last["response"]
        return response

    def failed(self, failure: Failure) -> dict[str, Any]:
        """The last event where something went wrong after the first."""
        error = {"code": failure.code or failure.type, "message": failure.message}
        status = _CANCELLED if failure.code == _CANCELLED else "failed"
        return self._of_response("response.failed", status=status, error=error)

    async def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        """The same as events."""
        self._shelf.begin(self._work)
        finished = None
        try:
            for kind in ("created", "in_progress"):
                yield self._of_response(f"response.{kind}", status="in_progress")
            async with aclosing(self._work.deltas()) as deltas:
                async for delta in deltas:
                    pieces = self._turn.read(delta)
                    self._heard.hear(pieces)
                    for piece in pieces:
                        for event in self._events(piece):
                            yield event
                    self._heard.finish_reason = delta.finish_reason or ""
            for event in self._close():
                yield event
            last = self._ending()
            finished = last["response"]
            yield last
        finally:
            said = assistant(self._heard.text, self._heard.calls)
            self._shelf.end(finished, [*self._before, said])

    def _events(self, piece: Piece) -> Iterator[dict[str, Any]]:
        match piece:
            case Said(text):
                if not self._output or self._output[-1]["type"] != "message":
                    yield from self._close()
                    yield from self._begin_message()
                self._output[-1]["content"][0]["text"] += text
                yield self._of_part("response.output_text.delta", delta=text, logprobs=[])
            case CallBegun(_, name):
                yield from self._close()
                call = {"type": "function_call", "call_id": call_id(), "name": name, "arguments": ""}
                yield self._begin(call, "fc_")
            case Arguments(_, text):
                self._output[-1]["arguments"] += text
                yield self._of_item("response.function_call_arguments.delta", delta=text)

    def _begin(self, item: dict[str, Any], prefix: str) -> dict[str, Any]:
        item = {"id": f"{prefix}{uuid4().hex}", "status": "in_progress", **item}
        self._output.append(item)
        return self._event("response.output_item.added", output_index=self._place, item=_copied(item))

    def _begin_message(self) -> Iterator[dict[str, Any]]:
        yield self._begin({"type": "message", "role": "assistant", "content": []}, "msg_")
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self._output[-1]["content"].append(part)
        yield self._of_part("response.content_part.added", part=dict(part))

    def _close(self) -> Iterator[dict[str, Any]]:
        """Ends the item that is being written."""
        if not self._output:
            return
        item = self._output[-1]
        if item["type"] == "message":
            part = item["content"][0]
            yield self._of_part("response.output_text.done", text=part["text"], logprobs=[])
            yield self._of_part("response.content_part.done", part=dict(part))
        else:
            done = {"name": item["name"], "arguments": item["arguments"]}
            yield self._of_item("response.function_call_arguments.done", **done)
        item["status"] = "incomplete" if self._heard.finish_reason == "length" else "completed"
        yield self._event("response.output_item.done", output_index=self._place, item=_copied(item))

    def _ending(self) -> dict[str, Any]:
        usage = self._work.usage
        counts = {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            **usage.cache(),
        }
        cut = self._heard.finish_reason == "length"
        kind = "incomplete" if cut else "completed"
        details = {"reason": "max_output_tokens"} if cut else None
        return self._of_response(f"response.{kind}", status=kind, usage=counts, incomplete_details=details)

    @property
    def _place(self) -> int:
        return len(self._output) - 1

    def _of_response(self, kind: str, **news: Any) -> dict[str, Any]:
        output = [_copied(item) for item in self._output]
        return self._event(kind, response=self._response | {"output": output} | news)

    def _of_item(self, kind: str, **news: Any) -> dict[str, Any]:
        return self._event(kind, item_id=self._output[-1]["id"], output_index=self._place, **news)

    def _of_part(self, kind: str, **news: Any) -> dict[str, Any]:
        return self._of_item(kind, content_index=0, **news)

    def _event(self, kind: str, **news: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": kind, "sequence_number": self._number, **news}


def _header(id: str, model: str, request: ResponseRequest) -> dict[str, Any]:
    return {
        "id": id,
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "model": model,
        "output": [],
        "error": None,
        "incomplete_details": None,
        "usage": None,
        "instructions": request.instructions or None,
        "max_output_tokens": request.max_output_tokens,
        "metadata": request.metadata,
        "parallel_tool_calls": request.parallel_tool_calls,
        "previous_response_id": request.previous_response_id,
        "store": request.store,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "text": {"format": {"type": request.text.format.type}},
        "tool_choice": request.tool_choice if isinstance(request.tool_choice, str) else "required",
        "tools": [tool.model_dump(include=_TOOL_FIELDS) for tool in request.tools],
        "truncation": request.truncation,
    }


_TOOL_FIELDS = {"type", "name", "description", "parameters", "strict"}


def _copied(item: dict[str, Any]) -> dict[str, Any]:
    return item | ({"content": [dict(part) for part in item["content"]]} if "content" in item else {})
