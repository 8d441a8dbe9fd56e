"""OpenAI's `/completions`, with `suffix` for filling in the middle; under /beta DeepSeek's, with its longer default."""

import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import FastAPI, Request
from pydantic import Discriminator, Tag
from starlette.responses import Response

from coderv2.engine.request import Delta, TokenLogprob
from coderv2.errors import InvalidValue
from coderv2.server.backend import Backend
from coderv2.server.dialects import tabby
from coderv2.server.door import Door, names
from coderv2.server.errors import unnamed
from coderv2.server.generation import Generation, Job
from coderv2.server.logprobs import CompletionLogprobs
from coderv2.server.sampling import room_for, sampling_params
from coderv2.server.schema.openai import CompletionRequest
from coderv2.server.schema.tabby import SegmentsRequest
from coderv2.server.stream import EVENTS
from coderv2.text.fim import encode_fim
from coderv2.text.tokenizer import Tokenizer

_FEW, _MANY = 16, 4096
"""Tokens of an answer where the request is silent: OpenAI's, and at most DeepSeek's under /beta."""


def _shape(body: Any) -> str:
    segments = body.get("segments") if isinstance(body, dict) else None
    return unnamed("prompt" if segments is None else "segments")


_Body = Annotated[
    Annotated[CompletionRequest, Tag(unnamed("prompt"))]
    | Annotated[SegmentsRequest, Tag(unnamed("segments"))],
    Discriminator(_shape),
]
"""Tabby's plugins post another shape to the same place."""


def add_routes(app: FastAPI, door: Door) -> None:
    """`POST /completions`."""

    @app.post("/completions")
    async def post_completions(body: _Body, request: Request) -> Response:
        if isinstance(body, SegmentsRequest):
            return await tabby.complete(door, body, request)
        work = await door.start(
            request,
            lambda models, caller: job(
                body, models.called(body.model).text, beta=request.state.beta, control=caller.control_tokens
            ),
        )
        if body.suffix is not None:
            door.sessions.enter(request, work)
        header = {
            "id": names(request, "cmpl-"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": door.served().name,
        }
        return await door.reply(request, Replies(header, body, work), EVENTS if body.stream else None)


def job(request: CompletionRequest, backend: Backend, *, beta: bool = False, control: bool = True) -> Job:
    """Prompts as token ids. Text may hold control tokens, with `control`; prefix and suffix of a hole may not.

    With a suffix, `max_tokens` is cut to the room that the context leaves.
    """
    _check(request)
    prompts = _prompts(request, backend, control)
    params = sampling_params(
        request,
        backend.defaults,
        max_tokens=_max_tokens(request, max(map(len, prompts)), backend, beta),
        best_of=request.best_of,
        logprobs=request.logprobs,
        prompt_logprobs=request.logprobs if request.echo else None,
    )
    return Job(prompts, params, backend, request.priority)


def _max_tokens(request: CompletionRequest, prompt_tokens: int, backend: Backend, beta: bool) -> int:
    if request.max_tokens is None:
        return room_for(_MANY if beta else _FEW, prompt_tokens, backend.engine.max_model_len)
    if request.suffix is None:
        return request.max_tokens
    return room_for(request.max_tokens, prompt_tokens, backend.engine.max_model_len)


def _check(request: CompletionRequest) -> None:
    if request.suffix is not None and not isinstance(request.prompt, str):
        raise InvalidValue(
            "with suffix, prompt must be one text: what stands before the hole", param="suffix"
        )
    if request.suffix is not None and request.echo:
        raise InvalidValue("echo does not go with suffix", param="echo")


def _prompts(request: CompletionRequest, backend: Backend, control: bool) -> list[list[int]]:
    if request.suffix is not None:
        assert isinstance(request.prompt, str)
        backend.check_infill()
        return [encode_fim(backend.prompt_tokenizer, request.prompt, request.suffix)]
    tokenizer = backend.prompt_tokenizer
    return [
        tokenizer.encode(prompt, bos=True, control=control) if isinstance(prompt, str) else prompt
        for prompt in _listed(request)
    ]


def _listed(request: CompletionRequest) -> list[str] | list[list[int]]:
    """The prompt as a list of prompts."""
    prompt: Any = request.prompt
    return [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt


class Replies:
    """Deltas in the shape of this API."""

    def __init__(self, header: dict[str, Any], request: CompletionRequest, work: Generation) -> None:
        self._header = header
        self._request = request
        self._work = work
        tokenizer = work.job.backend.tokenizer
        self._echoed = _echoes(request, tokenizer)
        self._logprobs = [CompletionLogprobs(tokenizer) for _ in range(work.choices)]

    async def whole(self) -> dict[str, Any]:
        """The answer to a request without `stream`."""
        answers = await self._work.answers()
        choices = [
            self._choice(
                index,
                self._echo(index) + answer.text,
                answer.finish_reason,
                self._places(answers, index),
                answer.stop_reason,
            )
            for index, answer in enumerate(answers)
        ]
        return self._header | {"choices": choices, "usage": self._work.usage.openai()}

    async def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        """The same in pieces; the piece with a finish_reason has no text, and the usage no choice."""
        for index in range(self._work.choices):
            if self._echo(index):
                yield self._chunk([self._choice(index, self._echo(index))])
        async with aclosing(self._work.deltas()) as deltas:
            async for delta in deltas:
                for choice in self._pieces(delta):
                    yield self._chunk([choice])
        if self._request.wants_usage:
            yield self._header | {"choices": [], "usage": self._work.usage.openai()}

    def _pieces(self, delta: Delta) -> Iterator[dict[str, Any]]:
        if (
            self._echoed and delta.prompt_logprobs is not None
        ):  # with the first token of a prompt's first answer
            for index in range(delta.index, delta.index + self._request.n):
                yield self._choice(index, "", None, self._of_prompt(index, delta.prompt_logprobs))
        if delta.text or delta.logprobs:
            yield self._choice(delta.index, delta.text, None, delta.logprobs or ())
        if delta.finish_reason:
            yield self._choice(delta.index, "", delta.finish_reason, stop_reason=delta.stop_reason)

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        usage = {"usage": None} if self._request.wants_usage else {}
        return self._header | {"choices": choices} | usage

    def _choice(
        self,
        index: int,
        text: str,
        finish_reason: str | None = None,
        places: "Sequence[TokenLogprob | int]" = (),
        stop_reason: str | int | None = None,
    ) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": self._logprobs[index].add(places) if places else None,
            "finish_reason": finish_reason,
            "stop_reason": stop_reason,
        }

    def _places(self, answers: Sequence[Any], index: int) -> "list[TokenLogprob | int]":
        own = answers[index].logprobs
        if not self._echoed or self._request.logprobs is None:
            return [*own]
        first = answers[index - index % self._request.n]
        return [*self._of_prompt(index, first.prompt_logprobs), *own]

    def _of_prompt(self, index: int, places: Sequence[TokenLogprob]) -> "list[TokenLogprob | int]":
        """The prompt's, whose first token has no probability: nothing precedes it."""
        first = self._work.job.prompts[index // self._request.n][0]
        return [first, *places]

    def _echo(self, index: int) -> str:
        return self._echoed[index // self._request.n] if self._echoed else ""


def _echoes(request: CompletionRequest, tokenizer: Tokenizer) -> list[str]:
    if not request.echo:
        return []
    return [p if isinstance(p, str) else tokenizer.decode(p) for p in _listed(request)]
