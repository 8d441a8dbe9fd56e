"""Several other servers as one engine: a prompt goes where its start is known, and past those that do not answer."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from coderv2.engine.params import SamplingParams
from coderv2.engine.request import Delta
from coderv2.engine.stats import EngineStats
from coderv2.errors import ContextTooLong, InvalidValue, NoAnswer, QueueFull, ServiceError
from coderv2.log import logger
from coderv2.server.backend import CountedDelta
from coderv2.server.sampling import room_for
from coderv2.server.upstream import BEGIN_SECONDS
from coderv2.server.upstream.affinity import Affinity
from coderv2.server.upstream.client import Client, Late, Unreachable
from coderv2.server.upstream.flavour import body
from coderv2.server.upstream.launch import Running
from coderv2.text.tokenizer import Tokenizer

_CROWDED = 8
"""A server with so many more requests than the idlest is passed over, though it knows the prompt's start."""


class Upstreams:
    """An `Engine` over other servers. Token counts are theirs where they tell them."""

    def __init__(
        self,
        urls: Sequence[str],
        tokenizer: Tokenizer,
        max_model_len: int,
        key: str | None = None,
        *,
        begin_seconds: float = BEGIN_SECONDS,
    ) -> None:
        """`max_model_len` holds until the servers have told theirs; `key` is sent to all of them.

        One that has not begun to answer after `begin_seconds` is passed over.
        """
        self.clients = [Client(url, key, begin_seconds=begin_seconds) for url in urls]
        self._begin_seconds = begin_seconds
        self._tokenizer = tokenizer
        self._max_model_len = max_model_len
        self._affinity = Affinity()
        self._prompt_tokens = self._cached_tokens = 0

    @property
    def max_model_len(self) -> int:
        """The least of them, so that a request may go to any."""
        return min([self._max_model_len, *(c.max_model_len for c in self.clients if c.max_model_len)])

    def healthy(self) -> bool:
        """True: one that is dead now may live the next time."""
        return True

    def stats(self) -> EngineStats:
        """What can be known from here; pages and guesses are theirs."""
        running = sum(client.running for client in self.clients)
        return EngineStats(running, 0, 0, 0, 0, self._prompt_tokens, self._cached_tokens, 0, 0)

    def stream(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        tenant: str = "",
        priority: int = 0,
        deadline: float | None = None,
    ) -> AsyncGenerator[Delta, None]:
        """The answers' text as it comes. Raises ContextTooLong at the call; order is the other server's affair."""
        wanted = len(prompt_ids) + (params.max_tokens or 1)
        if wanted > self.max_model_len:
            raise ContextTooLong(
                f"This model's maximum context length is {self.max_model_len} tokens. However, you requested {wanted} "
                "tokens. Shorten the prompt or ask for fewer tokens."
            )
        return self._answered(list(prompt_ids), params, tenant, deadline)

    async def _answered(
        self, prompt: list[int], params: SamplingParams, tenant: str, deadline: float | None
    ) -> AsyncGenerator[Delta, None]:
        reader = _Reader(params, self._tokenizer)
        ends = None if deadline is None else asyncio.get_running_loop().time() + deadline
        async with aclosing(self._first_that_answers(prompt, params, tenant)) as events:
            try:
                while True:
                    async with asyncio.timeout_at(ends):
                        event = await anext(events)
                    for delta in reader.read(event):
                        yield delta
            except (StopAsyncIteration, TimeoutError) as end:
                for delta in reader.finish("length" if isinstance(end, TimeoutError) else None):
                    yield delta
        self._prompt_tokens += len(prompt)
        self._cached_tokens += reader.cached

    async def _first_that_answers(
        self, prompt: list[int], params: SamplingParams, tenant: str
    ) -> AsyncGenerator[dict[str, Any], None]:
        late = False
        for client in self._in_order(prompt, tenant):
            begun = False
            try:
                if not client.known:
                    await client.look()
                bounded = self._bounded(prompt, params)
                # In a thread: where prompts go as text, a long one is decoded and read back.
                sent = await asyncio.to_thread(
                    body, client.flavour, client.model, prompt, bounded, self._tokenizer
                )
                async with aclosing(client.events(sent)) as events:
                    async for event in events:
                        if not begun:
                            begun = True
                            self._affinity.sent(prompt, tenant, self.clients.index(client))
                        yield event
                return
            except Unreachable as error:
                logger.warning("upstream: %s", error)
                client.failed()
                late = late or isinstance(error, Late)
        if late:
            raise NoAnswer(
                f"no server behind this one began to answer within {self._begin_seconds:g} seconds"
            )
        raise QueueFull("none of the servers behind this one answers; try again soon")

    def _bounded(self, prompt: list[int], params: SamplingParams) -> SamplingParams:
        """With the room that the context leaves for no limit: there, silence means OpenAI's 16 tokens."""
        if params.max_tokens is not None:
            return params
        return replace(params, max_tokens=room_for(None, len(prompt), self.max_model_len))

    def _in_order(self, prompt: list[int], tenant: str) -> Iterator[Client]:
        """First the one that knows the prompt's start, then the idlest; those that failed lately come last."""
        known, _ = self._affinity.longest(prompt, tenant)
        least = min(client.running for client in self.clients)

        def rank(place: int) -> tuple[bool, bool, int]:
            client = self.clients[place]
            fits = place == known and client.running <= least + _CROWDED
            return (not client.alive, not fits, client.running)

        return (self.clients[place] for place in sorted(range(len(self.clients)), key=rank))


class _Reader:
    """One stream of events → deltas; the last of each answer waits for the counts, which come after it."""

    def __init__(self, params: SamplingParams, tokenizer: Tokenizer) -> None:
        self.cached = 0
        self._tokenizer = tokenizer
        self._open = set(range(params.n))
        self._texts = [""] * params.n
        self._told = 0
        """Tokens that deltas have counted."""
        self._exact = True
        """Whether they were counted by their ids."""
        self._total: int | None = None
        self._ends: dict[int, tuple[str, str | int | None]] = {}

    def read(self, event: dict[str, Any]) -> Iterator[Delta]:
        if usage := event.get("usage"):
            self._total = int(usage["completion_tokens"])
            self.cached = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        for choice in event.get("choices", ()):
            index, text, ids = int(choice["index"]), choice.get("text") or "", choice.get("token_ids")
            if text or ids:
                yield self._delta(index, text, ids)
            if choice.get("finish_reason"):
                self._ends[index] = (choice["finish_reason"], self._stop_of(choice))

    def finish(self, reason: str | None) -> Iterator[Delta]:
        """The last delta of each answer; with a `reason` those that had not ended end for it."""
        if self._open - self._ends.keys() and reason is None:
            raise ServiceError("the server behind this one ended before its answer did")
        missing = self._count() - self._told
        for index in sorted(self._open):
            why, word = self._ends.get(index, (reason, None))
            yield CountedDelta(
                "",
                index,
                finish_reason=why,
                stop_reason=word,
                num_cached_tokens=self.cached,
                completion_tokens=missing,
            )
            missing = 0

    def _delta(self, index: int, text: str, ids: list[int] | None) -> Delta:
        self._texts[index] += text
        self._exact = self._exact and ids is not None
        count = len(ids) if ids is not None else 1
        self._told += count
        return CountedDelta("", index, text, tuple(ids or ()), completion_tokens=count)

    def _stop_of(self, choice: dict[str, Any]) -> str | int | None:
        """The stop string or token that was met: vLLM's word, and ours, or SGLang's, which also names EOS."""
        word: str | int | None = choice.get("stop_reason", choice.get("matched_stop"))
        return None if word == self._tokenizer.eos_id else word

    def _count(self) -> int:
        """Of all answers: as told, else by their ids, else what their text comes to in our tokens."""
        if self._total is not None:
            return self._total
        if self._exact:
            return self._told
        return sum(len(self._tokenizer.encode(text)) for text in self._texts)


def check_urls(urls: Sequence[str]) -> None:
    """Raises InvalidValue for what is no URL of a server."""
    for url in urls:
        if not url.startswith(("http://", "https://")):
            raise InvalidValue(f"upstream {url!r} must begin with http:// or https://", param="upstream")


async def wait_for_one(upstreams: Upstreams, seconds: float, started: Sequence[Running] = ()) -> None:
    """Until one of them says what it has. Raises InvalidValue when none does in time, or what was `started` ended."""
    end = time.monotonic() + seconds
    while True:
        errors = [error for error in await asyncio.gather(*map(_look, upstreams.clients)) if error]
        if len(errors) < len(upstreams.clients):
            return
        if ended := [one.ended for one in started if one.ended is not None]:
            raise InvalidValue(
                f"the engine ended with {ended[0]} before it answered; see what it wrote", param="engine"
            )
        if time.monotonic() > end:
            raise InvalidValue(f"no upstream answers: {'; '.join(errors)}", param="upstream")
        await asyncio.sleep(0.5)


async def _look(client: Client) -> str | None:
    try:
        await client.look()
    except Unreachable as error:
        return str(error)
    return None
