"""One HTTP request in the engine: its prompts side by side, their deltas as one stream or as whole answers."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from coderv2.engine.request import Delta, SamplingParams, TokenLogprob
from coderv2.errors import InvalidValue
from coderv2.server.schema import MAX_ANSWERS


class Engine(Protocol):
    """What the server needs of `engine.worker.Worker`; tests bring one with scripted replies."""

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and answer together."""

    def stream(self, prompt_ids: Sequence[int], params: SamplingParams) -> AsyncGenerator[Delta, None]:
        """Checks at the call, starts with the first `anext`, aborts when closed."""

    def healthy(self) -> bool:
        """True while requests can be served."""


@dataclass(frozen=True)
class Job:
    """What a dialect makes of a request's body."""

    prompts: Sequence[Sequence[int]]
    """Token ids; answer j of n to prompt i is choice i * n + j."""
    params: SamplingParams


@dataclass
class Answer:
    """One choice, whole."""

    text: str = ""
    finish_reason: str | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)


class Generation:
    """A job under way, and what it cost so far."""

    def __init__(self, engine: Engine, job: Job) -> None:
        """Raises what the engine refuses; nothing has started then."""
        self.choices = len(job.prompts) * job.params.n
        if self.choices > MAX_ANSWERS:
            raise InvalidValue(
                f"{len(job.prompts)} prompts times n = {job.params.n} make {self.choices} answers, "
                f"at most {MAX_ANSWERS} to a request",
                param="n",
            )
        self.prompt_tokens = sum(len(prompt) for prompt in job.prompts)
        self.completion_tokens = 0
        self._cached = [0] * len(job.prompts)
        self._streams = [engine.stream(prompt, job.params) for prompt in job.prompts]
        self._n = job.params.n

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """Deltas of all choices, `index` counting through all prompts. Closing it aborts what is unfinished."""
        async with aclosing(_merged(self._streams, self._n)) as deltas:
            async for delta in deltas:
                self.completion_tokens += len(delta.token_ids)
                if delta.index % self._n == 0:  # a prompt's other answers share what its first one computed
                    self._cached[delta.index // self._n] = delta.num_cached_tokens
                yield delta

    async def answers(self) -> list[Answer]:
        """All choices, when the last has ended."""
        answers = [Answer() for _ in range(self.choices)]
        async with aclosing(self.deltas()) as deltas:
            async for delta in deltas:
                answer = answers[delta.index]
                answer.text += delta.text
                answer.finish_reason = delta.finish_reason
                answer.logprobs += delta.logprobs or ()
        return answers

    def usage(self) -> dict[str, Any]:
        """OpenAI's usage object with DeepSeek's two cache fields."""
        cached = sum(self._cached)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached},
            "prompt_cache_hit_tokens": cached,
            "prompt_cache_miss_tokens": self.prompt_tokens - cached,
        }


_Inbox = asyncio.Queue[Delta | Exception | None]


async def _merged(streams: Sequence[AsyncGenerator[Delta, None]], n: int) -> AsyncGenerator[Delta, None]:
    inbox: _Inbox = asyncio.Queue()
    tasks = [asyncio.create_task(_forward(s, place * n, inbox)) for place, s in enumerate(streams)]
    try:
        unfinished = len(tasks)
        while unfinished:
            item = await inbox.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                unfinished -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _forward(stream: AsyncGenerator[Delta, None], first_index: int, inbox: _Inbox) -> None:
    """Puts a stream's deltas, then None or what it raised, into the inbox."""
    try:
        async with aclosing(stream):
            async for delta in stream:
                inbox.put_nowait(replace(delta, index=first_index + delta.index))
    except Exception as error:
        inbox.put_nowait(error)
    else:
        inbox.put_nowait(None)
