"""A day's worth of short requests in minutes: everything ends, and nothing grows."""

import gc
import random
import tracemalloc

import pytest
import torch
from torch import Tensor

from coderv2.engine.engine import Engine
from tests.engine.fakes import Clock, FakeModel, fake_engine, greedy

REQUESTS = 50_000
ROUND = 5_000


def constant(tokens: list[int]) -> Tensor:
    """The cheapest row of logits there is."""
    return ROW_W


ROW_W = torch.zeros(600)
ROW_W[42] = 5.0


class Forgetful(FakeModel):
    """Keeps no list of its batches."""

    def _read_back(self, batch: object, b: int) -> list[int]:
        self.batches.clear()
        return []


def serve(engine: Engine, clock: Clock, luck: random.Random, count: int) -> int:
    """Submits, cancels and lets time pass at random; how many answers ended."""
    ended = submitted = 0
    names: list[str] = []
    while submitted < count or engine.has_work():
        while submitted < count and not engine.full(2):
            ids = [luck.randrange(10, 20) for _ in range(luck.randrange(1, 24))]
            params = greedy(luck.randrange(1, 6), n=1 + (submitted % 50 == 0))
            deadline = 3.0 if submitted % 20 == 0 else None
            tenant = "abc"[submitted % 3]
            names.append(engine.submit(ids, params, tenant=tenant, priority=submitted % 4, deadline=deadline))
            submitted += 1
        if luck.random() < 0.1:
            engine.abort(luck.choice(names[-64:]))
        clock.now += 0.1
        ended += sum(delta.finish_reason is not None for delta in engine.step())
    return ended


@pytest.mark.slow
def test_fifty_thousand_requests_leave_memory_flat() -> None:
    clock, luck = Clock(), random.Random(0)
    engine = fake_engine(
        Forgetful(constant), clock=clock, cache_tokens=2048, page_size=4, max_running=32, max_waiting=64
    )
    sizes = []
    for _ in range(REQUESTS // ROUND):
        assert serve(engine, clock, luck, ROUND) == ROUND + ROUND // 50
        engine.check()
        assert engine.stats().pages_used == 0
        gc.collect()
        if not tracemalloc.is_tracing():
            tracemalloc.start()  # after the first round, which fills caches that stay
        sizes.append(tracemalloc.get_traced_memory()[0])
    assert max(sizes[1:]) - min(sizes[1:]) < 200_000
