"""One HTTP request in the engine: its prompts side by side, their deltas as one stream or as whole answers."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from coderv2.engine.request import Delta, SamplingParams, TokenLogprob
from coderv2.errors import InvalidValue
from coderv2.server.backend import Backend, tokens_of
from coderv2.server.clock import Clock
from coderv2.server.schema.base import MAX_ANSWERS

_Inbox = asyncio.Queue[Delta | Exception | None]


@dataclass(frozen=True)
class Job:
    """What a dialect makes of a request's body."""

    prompts: Sequence[Sequence[int]]
    """Token ids; answer j of n to prompt i is choice i * n + j."""
    params: SamplingParams
    backend: Backend
    priority: int = 0


@dataclass
class Answer:
    """One choice, whole."""

    text: str = ""
    finish_reason: str = ""
    stop_reason: str | int | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: Sequence[TokenLogprob] = ()


@dataclass(frozen=True)
class Usage:
    """What a request took; every dialect tells the same numbers under its own names."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    """Of the prompt's, those that were found in the cache."""

    @property
    def missed_tokens(self) -> int:
        """Of the prompt's, those that were computed."""
        return self.prompt_tokens - self.cached_tokens

    def cache(self) -> dict[str, int]:
        """DeepSeek's two fields, whose sum is the prompt."""
        return {
            "prompt_cache_hit_tokens": self.cached_tokens,
            "prompt_cache_miss_tokens": self.missed_tokens,
        }

    def openai(self) -> dict[str, Any]:
        """OpenAI's object with DeepSeek's fields."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            **self.cache(),
        }


class Generation:
    """A job under way, what it cost so far, and when it did what."""

    def __init__(self, job: Job, *, tenant: str = "", deadline: float | None = None) -> None:
        """Raises what the engine refuses; nothing has started then. `deadline` is in seconds from the start."""
        self.choices = len(job.prompts) * job.params.n
        if self.choices > MAX_ANSWERS:
            raise InvalidValue(
                f"{len(job.prompts)} prompts times n = {job.params.n} make {self.choices} answers, "
                f"at most {MAX_ANSWERS} to a request",
                param="n",
            )
        self.job = job
        self.clock = Clock()
        self.failed = False
        """Whether something went wrong, or it was abandoned, before its end."""
        self._prompt_tokens = sum(len(prompt) for prompt in job.prompts)
        self._completion_tokens = 0
        self._cached = [0] * len(job.prompts)
        self._n = job.params.n
        self._streams = [
            job.backend.engine.stream(
                prompt, job.params, tenant=tenant, priority=job.priority, deadline=deadline
            )
            for prompt in job.prompts
        ]
        self._inbox: _Inbox = asyncio.Queue()

    def abandon(self, reason: Exception) -> None:
        """Ends it: whoever reads its deltas gets `reason` instead of the next."""
        self._inbox.put_nowait(reason)

    @property
    def usage(self) -> Usage:
        """So far."""
        return Usage(self._prompt_tokens, self._completion_tokens, sum(self._cached))

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """Deltas of all choices, `index` counting through all prompts. Closing it aborts what is unfinished."""
        async with aclosing(_merged(self._streams, self._n, self._inbox)) as deltas:
            try:
                async for delta in deltas:
                    self._count(delta)
                    yield delta
            except Exception:
                self.failed = True
                raise

    def _count(self, delta: Delta) -> None:
        count = tokens_of(delta)
        self.clock.tick(count)
        self._completion_tokens += count
        if delta.index % self._n == 0:  # a prompt's other answers share what its first one computed
            self._cached[delta.index // self._n] = delta.num_cached_tokens

    async def answers(self) -> list[Answer]:
        """All choices, when the last has ended."""
        answers = [Answer() for _ in range(self.choices)]
        async with aclosing(self.deltas()) as deltas:
            async for delta in deltas:
                answer = answers[delta.index]
                answer.text += delta.text
                answer.finish_reason = delta.finish_reason or ""
                answer.stop_reason = delta.stop_reason
                answer.logprobs += delta.logprobs or ()
                answer.prompt_logprobs = delta.prompt_logprobs or answer.prompt_logprobs
        return answers


async def _merged(
    streams: Sequence[AsyncGenerator[Delta, None]], n: int, inbox: _Inbox
) -> AsyncGenerator[Delta, None]:
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
                inbox.put_nowait(replace(delta, index=first_index + delta.index) if first_index else delta)
    except Exception as error:
        inbox.put_nowait(error)
    else:
        inbox.put_nowait(None)
