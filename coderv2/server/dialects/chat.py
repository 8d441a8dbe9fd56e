"""OpenAI's `/v1/chat/completions`; a last assistant message with `prefix: true` is continued."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from coderv2.engine.request import Delta, TokenLogprob
from coderv2.errors import InvalidValue
from coderv2.server.defaults import SamplingDefaults
from coderv2.server.generation import Generation, Job
from coderv2.server.logprobs import chat_logprobs
from coderv2.server.sampling import sampling_params
from coderv2.server.schema import ChatRequest
from coderv2.text.chat import Message, encode_chat
from coderv2.text.tokenizer import Tokenizer


def job(request: ChatRequest, tokenizer: Tokenizer, defaults: SamplingDefaults, max_model_len: int) -> Job:
    """The conversation as one prompt; nothing in it becomes a control token."""
    _check(request)
    params = sampling_params(
        request,
        defaults,
        max_tokens=request.max_completion_tokens or request.max_tokens,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
    )
    messages, goes_on = _messages(request)
    prompt = encode_chat(tokenizer, messages, add_generation_prompt=not goes_on, continue_last=goes_on)
    return Job([prompt], params)


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
    messages = [Message(message.role, message.content) for message in request.messages]
    if not request.messages[-1].prefix:
        return messages, False
    # Nothing to go on with: the template's space would stand alone after `Assistant:`, which spoils the answer.
    if not messages[-1].content.strip(" ") and len(messages) > 1:
        return messages[:-1], False
    return messages, True


class Replies:
    """Deltas in the shape of this API.

    The space that the model writes after `Assistant:` belongs to the template, not to the answer: it is dropped.
    """

    def __init__(
        self, header: dict[str, Any], request: ChatRequest, tokenizer: Tokenizer, work: Generation
    ) -> None:
        self._header = header
        self._request = request
        self._tokenizer = tokenizer
        self._work = work
        self._at_start = [not request.messages[-1].prefix] * work.choices

    async def whole(self) -> dict[str, Any]:
        """The answer to a request without `stream`."""
        choices = [
            {
                "index": index,
                "message": {
                    "role": "assistant",
                    "content": self._trimmed(index, answer.text),
                    "refusal": None,
                },
                "logprobs": self._logprobs(answer.logprobs),
                "finish_reason": answer.finish_reason,
            }
            for index, answer in enumerate(await self._work.answers())
        ]
        return self._header | {"object": "chat.completion", "choices": choices, "usage": self._work.usage()}

    async def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        """The same in pieces: role first, text, a finish_reason without text, the usage without a choice."""
        for index in range(self._work.choices):
            yield self._chunk([self._piece(index, {"role": "assistant", "content": ""})])
        async with aclosing(self._work.deltas()) as deltas:
            async for delta in deltas:
                for piece in self._pieces(delta):
                    yield self._chunk([piece])
        if self._request.wants_usage:
            yield self._chunk([]) | {"usage": self._work.usage()}

    def _pieces(self, delta: Delta) -> Iterator[dict[str, Any]]:
        text = self._trimmed(delta.index, delta.text)
        if text or delta.logprobs:
            yield self._piece(delta.index, {"content": text}, delta.logprobs or ())
        if delta.finish_reason:
            yield self._piece(delta.index, {"content": ""}) | {"finish_reason": delta.finish_reason}

    def _piece(
        self, index: int, delta: dict[str, Any], places: Sequence[TokenLogprob] = ()
    ) -> dict[str, Any]:
        logprobs = self._logprobs(places)
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        usage = {"usage": None} if self._request.wants_usage else {}
        return self._header | {"object": "chat.completion.chunk", "choices": choices} | usage

    def _logprobs(self, places: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        return chat_logprobs(self._tokenizer, places) if places else None

    def _trimmed(self, index: int, text: str) -> str:
        if not text or not self._at_start[index]:
            return text
        self._at_start[index] = False
        return text.removeprefix(" ")
