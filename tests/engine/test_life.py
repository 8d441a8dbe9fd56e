"""Any order of submit, step, cancel, time passing, preemption and forks over a cache that is too small for all."""

import random

import pytest
import torch
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coderv2.errors import QueueFull
from tests.engine.fakes import Clock, continuation, fake_engine, greedy

TENANTS = ("", "one", "two")
STEPS = 3000


def prompt(stem: int, shared: int, seed: int, own: int) -> list[int]:
    """`shared` tokens that all prompts of the same stem start with, then `own` others."""
    start = random.Random(-1 - stem).choices(range(10, 300), k=shared)
    return start + random.Random(seed).choices(range(10, 300), k=own)


class Life(RuleBasedStateMachine):
    """12 pages of 4 tokens for requests that need up to 12 each."""

    @initialize(sharing=st.booleans())
    def start(self, sharing: bool) -> None:
        self.clock = Clock()
        self.engine = fake_engine(
            clock=self.clock,
            cache_tokens=48,
            page_size=4,
            max_running=4,
            max_batch_tokens=8,
            max_waiting=6,
            prefix_caching=sharing,
        )
        self.expected: dict[str, list[int]] = {}
        self.due: dict[str, float] = {}
        self.patience: dict[str, float] = {}
        self.seen: dict[tuple[str, int], list[int]] = {}
        self.open: set[tuple[str, int]] = set()

    @rule(
        ids=st.builds(prompt, st.integers(0, 1), st.integers(0, 20), st.integers(0, 9), st.integers(1, 9)),
        count=st.integers(1, 18),
        n=st.integers(1, 3),
        tenant=st.sampled_from(TENANTS),
        priority=st.integers(-1, 2),
        deadline=st.none() | st.floats(0.5, 20),
        patience=st.none() | st.floats(0.5, 20),
        right=st.integers(0, 18),
    )
    def submit(
        self,
        ids: list[int],
        count: int,
        n: int,
        tenant: str,
        priority: int,
        deadline: float | None,
        patience: float | None,
        right: int,
    ) -> None:
        # A draft of which the first `right` tokens are the answer's.
        params = greedy(count, n=n, prediction=[*continuation(ids, count)[:right], 11, 12, 13])
        if self.engine.full(n):
            with pytest.raises(QueueFull):
                self.engine.submit(ids, params)
            return
        name = self.engine.submit(
            ids, params, tenant=tenant, priority=priority, deadline=deadline, patience=patience
        )
        self.patience[name] = float("inf") if patience is None else self.clock.now + patience
        self.expected[name] = continuation(ids, count)
        self.due[name] = float("inf") if deadline is None else self.clock.now + deadline
        for index in range(n):
            self.seen[name, index] = []
            self.open.add((name, index))

    @rule(times=st.integers(1, 6))
    def step(self, times: int) -> None:
        for _ in range(times):
            self._step()

    @rule(seconds=st.floats(0.1, 100))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def preempt(self) -> None:
        self.engine._scheduler.preempt_all()

    @rule()
    def update(self) -> None:
        self.engine.update_weights({"model.norm.weight": torch.zeros(4)})
        assert self.engine.stats().pages_idle == 0

    @precondition(lambda self: not self.engine.full())
    @rule(ids=st.lists(st.integers(10, 300), min_size=1, max_size=12))
    def score(self, ids: list[int]) -> None:
        # What others bring meanwhile comes with the next step, which tells late ones from those in time by the clock.
        (found,) = self.engine.score([ids])
        assert len(found) == len(ids) - 1
        self._step()

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted({name for name, _ in self.open})))
        self.engine.abort(name)
        self.engine.check()
        self._step()
        assert not {key for key in self.open if key[0] == name}

    def _step(self) -> None:
        for delta in self.engine.step():
            key = (delta.request_id, delta.index)
            assert key in self.open, "a delta after the end"
            self.seen[key] += delta.token_ids
            whole = self.expected[delta.request_id]
            assert self.seen[key] == whole[: len(self.seen[key])]
            if delta.finish_reason:
                if delta.finish_reason == "queue":
                    assert self.patience[delta.request_id] <= self.clock.now
                    assert not self.seen[key], "it had begun"
                late = self.due[delta.request_id] <= self.clock.now
                assert late or delta.finish_reason in ("abort", "queue") or self.seen[key] == whole
                self.open.remove(key)
        assert not {name for name, _ in self.open if self.due[name] <= self.clock.now}, "past its deadline"

    @invariant()
    def pages_add_up(self) -> None:
        self.engine.check()

    @invariant()
    def queues_keep_their_bounds_and_order(self) -> None:
        stats = self.engine.stats()
        assert stats.running <= 4
        assert stats.running + stats.waiting == len(self.open)
        for queue in (self.engine._scheduler.running, self.engine._scheduler.waiting):
            assert [r.order for r in queue] == sorted(r.order for r in queue)

    def teardown(self) -> None:
        for _ in range(STEPS):
            if not self.engine.has_work():
                break
            self._step()
        assert not self.open, "a request never ended"
        assert self.engine.stats().pages_used == 0


Life.TestCase.settings = hypothesis_settings(max_examples=60, stateful_step_count=25, deadline=None)
TestLife = Life.TestCase
