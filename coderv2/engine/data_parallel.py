"""Data-parallel attention: every rank is an engine with sequences and a cache of its own, and all step together.

The latent cache knows no heads: where heads are cut over ranks, each holds the whole cache. Here a rank holds what its
own sequences need, so N ranks have room for N times as many. In a step every engine plans for itself; then all pass
through the model at once, since what is cut in a feed-forward sees the tokens of all ranks. One that has nothing to do
passes no tokens, but computes its part for the others.

The first rank takes all requests and gives each to the rank with the fewest open answers. What a prompt shares with
earlier ones is found only where these were.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import Tensor

from coderv2.engine.engine import Engine
from coderv2.engine.follower import Follower
from coderv2.engine.open_requests import Terms
from coderv2.engine.rank_processes import uninterrupted
from coderv2.engine.ranks import Ranks, Weights
from coderv2.engine.request import Delta, SamplingParams
from coderv2.engine.sampler import Said
from coderv2.engine.scheduler import Chunk
from coderv2.engine.settings import EngineSettings, check_ranks
from coderv2.engine.stats import EngineStats
from coderv2.errors import EngineStopped, InvalidValue, QueueFull
from coderv2.model.transformer import Transformer
from coderv2.text.tokenizer import Tokenizer


class Member(Engine):
    """One rank's engine: every step of it is a pass with all others, whether or not it has work."""

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, settings: EngineSettings, **more: Any
    ) -> None:
        check_ranks(settings)
        super().__init__(model, tokenizer, settings, **more)
        self._part = model

    def _advance(self, chunks: Sequence[Chunk]) -> list[Delta]:
        if not chunks:
            with self._lockstep():
                self._runner.assist(self._part)
        return super()._advance(chunks)

    def _forward(self, chunks: Sequence[Chunk]) -> tuple[Tensor, Said | None]:
        with self._lockstep():
            return super()._forward(chunks)

    def refuse(self, request_id: str, answers: int, error: Exception) -> None:
        """The next step says of so many answers why they were not begun."""
        why = f"the request could not be started: {error!r}"
        ends = [Delta(request_id, index, finish_reason="error", error=why) for index in range(answers)]
        self._open.tell_later(ends)

    def forget(self) -> None:
        """Lets recorded steps go."""
        self._runner.forget()

    def _lockstep(self) -> AbstractContextManager[None]:
        """Around a pass: one that fails here leaves the others waiting, so it ends everything."""
        return _all_or_none()


@contextmanager
def _all_or_none() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise EngineStopped(f"a pass failed: {error!r}") from error


class EngineFollower(Follower):
    """Another rank: an engine that does what the first one says."""

    def make_engine(self, tokenizer: Tokenizer, settings: EngineSettings) -> None:
        """As large as the first rank's."""
        recorder = self._opening.recorder(self._model.device)
        self._engine = Member(self._model, tokenizer, settings, recorder=recorder)
        self._forget = self._engine.forget

    def submit(self, prompt_ids: Sequence[int], params: SamplingParams, options: dict[str, Any]) -> None:
        """As `Engine`; what the first rank has let pass and this one does not ends with an error."""
        try:
            self._engine.submit(prompt_ids, params, **options)
        except Exception as error:
            self._engine.refuse(options["request_id"], params.n, error)

    def abort(self, request_id: str) -> None:
        """As `Engine`."""
        self._engine.abort(request_id)

    def renew(self) -> None:
        """As `Engine`."""
        self._engine.renew()

    def check(self) -> None:
        """As `Engine`."""
        self._engine.check()

    def step(self, *_: Any) -> None:
        """A pass; the first rank is told what it brought."""
        self._answer((self._engine.step(), self._engine.stats()))


class EngineRanks(Ranks):
    """Ranks that each have sequences of their own."""

    ATTENTION: ClassVar[Literal["heads", "tokens"]] = "tokens"
    FOLLOWER: ClassVar[type[Follower]] = EngineFollower


@dataclass
class Away:
    """A request that another rank answers."""

    rank: int
    answers: int
    unfinished: int
    """Answers whose last delta is still to come."""


class DataParallelEngine(Member):
    """The first rank's engine, and the door to all. Limits such as `max_running` are those of each rank."""

    def __init__(
        self,
        ranks: EngineRanks,
        tokenizer: Tokenizer,
        settings: EngineSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """As `Engine`; every rank takes as much memory for its cache as the first."""
        super().__init__(
            ranks.model, tokenizer, settings or EngineSettings(), clock=clock, recorder=ranks.recorder()
        )
        self.ranks: EngineRanks = ranks
        ranks.forget = self.forget
        tokens = self._pages.count * self.settings.page_size
        ranks.tell(
            "make_engine",
            tokenizer,
            replace(self.settings, cache_tokens=tokens, max_model_len=self.max_model_len),
        )
        self._away: dict[str, Away] = {}
        self._others = [super().stats()] * (ranks.size - 1)

    def full(self, answers: int = 1) -> bool:
        """True when no rank's queue has room for so many more sequences; all that is open counts as waiting."""
        return self._open_answers(self._idlest()) + answers > self.settings.max_waiting

    @uninterrupted()
    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        request_id: str | None = None,
        **options: Any,
    ) -> str:
        """As `Engine`, on the rank with the fewest open answers."""
        self.validate(prompt_ids, params)
        params, options = self.ready(params), vars(Terms(**options))
        if self.full(params.answers):
            raise QueueFull("too many requests are waiting; try again soon")
        name = request_id or self._open.new_id()
        if name in self._open or name in self._away:
            raise InvalidValue(f"request_id {name!r} is in use", param="request_id")
        rank = self._idlest()
        if rank == 0:
            return super().submit(prompt_ids, params, request_id=name, **options)
        # Ranks would draw alike if each numbered its own requests.
        seeded = replace(params, seed=self._admission.seed(prompt_ids, params))
        self.ranks.tell_one(rank, "submit", list(prompt_ids), seeded, {"request_id": name, **options})
        self._away[name] = Away(rank, params.answers, params.n)
        return name

    @uninterrupted()
    def abort(self, request_id: str) -> None:
        """As `Engine`."""
        if (away := self._away.get(request_id)) is not None:
            self.ranks.tell_one(away.rank, "abort", request_id)
        super().abort(request_id)

    @uninterrupted()
    def step(self) -> list[Delta]:
        """One pass of all ranks."""
        self.ranks.tell("step")
        deltas = super().step()
        answers = self.ranks.answers()
        self._others = [stats for _, stats in answers]
        theirs = [delta for brought, _ in answers for delta in brought]
        for delta in theirs:
            self._note(delta)
        return deltas + theirs

    def has_work(self) -> bool:
        """As `Engine`, of any rank."""
        return bool(self._away) or super().has_work()

    @uninterrupted()
    def update_weights(self, source: Weights) -> None:
        """As `Engine`, from a folder, on all ranks."""
        self.ranks.update(source)
        self.ranks.tell("renew")
        self.renew()

    def stats(self) -> EngineStats:
        """Sums over all ranks, after the last step."""
        return sum(self._others, super().stats())

    def check(self) -> None:
        """As `Engine`, on all ranks."""
        self.ranks.tell("check")
        super().check()

    def _lockstep(self) -> AbstractContextManager[None]:
        return self.ranks.lockstep()

    def _note(self, delta: Delta) -> None:
        if delta.finish_reason:
            away = self._away[delta.request_id]
            away.unfinished -= 1
            if not away.unfinished:
                del self._away[delta.request_id]

    def _idlest(self) -> int:
        return min(range(self.ranks.size), key=self._open_answers)

    def _open_answers(self, rank: int) -> int:
        if rank == 0:
            return sum(1 for _ in self._open)
        return sum(away.answers for away in tuple(self._away.values()) if away.rank == rank)
