"""OpenAI's `/v1/completions`, with `suffix` for filling in the middle."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from coderv2.engine.request import Delta, TokenLogprob
from coderv2.errors import InvalidValue, Unsupported
from coderv2.server.defaults import SamplingDefaults
from coderv2.server.generation import Generation, Job
from coderv2.server.logprobs import CompletionLogprobs
from coderv2.server.sampling import sampling_params
from coderv2.server.schema import CompletionRequest
from coderv2.text.fim import encode_fim
from coderv2.text.tokenizer import Tokenizer


def job(
    request: CompletionRequest, tokenizer: Tokenizer, defaults: SamplingDefaults, max_model_len: int
) -> Job:
    """Prompts as token ids. Text may hold control tokens; prefix and suffix of a hole may not.

    With a suffix, `max_tokens` is cut to the room that the context leaves.
    """
    _check(request)
    prompts = _prompts(request, tokenizer)
    max_tokens = request.max_tokens
    if request.suffix is not None:
        max_tokens = max(1, min(max_tokens, max_model_len - len(prompts[0])))
    params = sampling_params(request, defaults, max_tokens=max_tokens, logprobs=request.logprobs)
    return Job(prompts, params)


def _check(request: CompletionRequest) -> None:
    if request.best_of not in (None, request.n):
        raise Unsupported(f"best_of must equal n ({request.n}): there is no ranking", param="best_of")
    if request.suffix is not None and not isinstance(request.prompt, str):
        raise InvalidValue(
            "with suffix, prompt must be one text: what stands before the hole", param="suffix"
        )
    if request.suffix is not None and request.echo:
        raise InvalidValue("echo does not go with suffix", param="echo")
    if request.echo and request.logprobs is not None:
        raise Unsupported(
            "logprobs of an echoed prompt are not computed; drop echo or logprobs", param="echo"
        )


def _prompts(request: CompletionRequest, tokenizer: Tokenizer) -> list[list[int]]:
    if request.suffix is not None:
        assert isinstance(request.prompt, str)
        return [encode_fim(tokenizer, request.prompt, request.suffix)]
    return [
        tokenizer.encode(prompt, bos=True, control=True) if isinstance(prompt, str) else prompt
        for prompt in _listed(request)
    ]


def _listed(request: CompletionRequest) -> list[str] | list[list[int]]:
    """The prompt as a list of prompts."""
    prompt: Any = request.prompt
    return [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt


class Replies:
    """Deltas in the shape of this API."""

    def __init__(
        self, header: dict[str, Any], request: CompletionRequest, tokenizer: Tokenizer, work: Generation
    ) -> None:
        self._header = {**header, "object": "text_completion"}
        self._request = request
        self._work = work
        self._echoed = _echoes(request, tokenizer)
        self._logprobs = [CompletionLogprobs(tokenizer) for _ in range(work.choices)]

    async def whole(self) -> dict[str, Any]:
        """The answer to a request without `stream`."""
        choices = [
            self._choice(index, self._echo(index) + answer.text, answer.finish_reason, answer.logprobs)
            for index, answer in enumerate(await self._work.answers())
        ]
        return self._header | {"choices": choices, "usage": self._work.usage()}

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
            yield self._header | {"choices": [], "usage": self._work.usage()}

    def _pieces(self, delta: Delta) -> Iterator[dict[str, Any]]:
        if delta.text or delta.logprobs:
            yield self._choice(delta.index, delta.text, None, delta.logprobs or ())
        if delta.finish_reason:
            yield self._choice(delta.index, "", delta.finish_reason)

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        usage = {"usage": None} if self._request.wants_usage else {}
        return self._header | {"choices": choices} | usage

    def _choice(
        self,
        index: int,
        text: str,
        finish_reason: str | None = None,
        places: Sequence[TokenLogprob] = (),
    ) -> dict[str, Any]:
        logprobs = self._logprobs[index].add(places) if places else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}

    def _echo(self, index: int) -> str:
        return self._echoed[index // self._request.n] if self._echoed else ""


def _echoes(request: CompletionRequest, tokenizer: Tokenizer) -> list[str]:
    if not request.echo:
        return []
    return [p if isinstance(p, str) else tokenizer.decode(p) for p in _listed(request)]
