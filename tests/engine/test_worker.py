import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from coderv2.engine.engine import Engine
from coderv2.engine.request import Delta
from coderv2.engine.worker import Worker
from coderv2.errors import ContextTooLong, EngineStopped, InvalidValue, QueueFull, ServiceError
from tests.engine.fakes import Clock, FakeModel, continuation, fake_engine, greedy, one_peak

SECONDS = 10.0  # far more than anything here takes; a hang fails instead of blocking the run


@contextmanager
def working(engine: Engine | None = None, *, patience: float | None = None) -> Iterator[Worker]:
    worker = Worker(engine or fake_engine(), patience=patience)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


def within(coroutine: Callable[[], Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine(), SECONDS))


async def collect(stream: AsyncIterator[Delta]) -> list[int]:
    return [token for delta in [d async for d in stream] for token in delta.token_ids]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


class Gate:
    """Holds the engine's thread inside a forward pass until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self, tokens: list[int]) -> Tensor:
        self.reached.set()
        assert self.open.wait(SECONDS)
        return one_peak(tokens)


def test_many_streams_at_once_get_each_their_own_tokens() -> None:
    async def main(worker: Worker) -> list[list[int]]:
        return await asyncio.gather(*(collect(worker.stream([20 + i], greedy(10))) for i in range(20)))

    with working() as worker:
        assert within(lambda: main(worker)) == [continuation([20 + i], 10) for i in range(20)]
        assert worker.stats().pages_used == 0


def test_the_engines_thread_takes_the_models_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread begins with the first GPU: kernels started there over tensors of the caller's own choice of one."""
    taken: list[tuple[str, torch.device]] = []
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: taken.append((threading.current_thread().name, device))
    )
    monkeypatch.setattr(Engine, "device", torch.device("cuda:1"))
    with working() as worker:
        assert within(lambda: collect(worker.stream([20], greedy(2)))) == continuation([20], 2)
    assert taken == [("coderv2-engine", torch.device("cuda:1"))]


def test_a_stream_of_n_answers_ends_with_the_last_of_them() -> None:
    async def main(worker: Worker) -> list[Delta]:
        return [delta async for delta in worker.stream([20], greedy(3, n=2))]

    with working() as worker:
        deltas = within(lambda: main(worker))
    assert sorted(d.index for d in deltas) == [0, 0, 0, 1, 1, 1]
    assert [d.finish_reason for d in deltas[-2:]] == ["length", "length"]


def test_streams_of_two_event_loops_share_one_engine() -> None:
    with working() as worker:
        first = within(lambda: collect(worker.stream([20], greedy(4))))
        second = within(lambda: collect(worker.stream([21], greedy(4))))
    assert (first, second) == (continuation([20], 4), continuation([21], 4))


def test_closing_a_stream_early_aborts_its_request() -> None:
    async def main(worker: Worker) -> None:
        async with aclosing(worker.stream([20], greedy(100))) as stream:
            await anext(stream)
        await until(lambda: worker.stats().pages_used == 0)

    with working() as worker:
        within(lambda: main(worker))
        assert not worker._readers


def test_cancelling_the_task_that_waits_aborts_its_request() -> None:
    async def main(worker: Worker) -> None:
        task = asyncio.create_task(collect(worker.stream([20], greedy(100))))
        await asyncio.to_thread(gate.reached.wait, SECONDS)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open.set()
        await until(lambda: worker.stats().pages_used == 0)

    gate = Gate()
    model = FakeModel(gate)
    with working(fake_engine(model)) as worker:
        within(lambda: main(worker))
    # The step under way, and at most one more that had begun before the order to abort arrived.
    assert len(model.batches) <= 2


def test_what_can_never_be_served_is_refused_at_the_call() -> None:
    with working() as worker:
        with pytest.raises(ContextTooLong):
            worker.stream([20] * 200, greedy())
        with pytest.raises(InvalidValue):
            worker.stream([], greedy())


def test_a_full_queue_is_refused_at_the_call() -> None:
    gate = Gate()
    engine = fake_engine(FakeModel(gate), max_running=1, max_waiting=2)
    for _ in range(2):
        engine.submit([20], greedy(2))
    with working(engine) as worker:
        assert gate.reached.wait(SECONDS)
        assert worker.stats().waiting == 1
        worker.stream([20], greedy(2))
        with pytest.raises(QueueFull):
            worker.stream([20], greedy(2, n=2))
        gate.open.set()


def test_a_queue_filled_by_others_meanwhile_is_told_in_the_stream() -> None:
    async def main(worker: Worker) -> None:
        tasks = [asyncio.create_task(collect(worker.stream([20], greedy(2))))]
        await asyncio.to_thread(gate.reached.wait, SECONDS)
        tasks += [asyncio.create_task(collect(worker.stream([20], greedy(2)))) for _ in range(3)]
        await asyncio.sleep(0)  # lets all of them order their place
        gate.open.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results[:2] == [continuation([20], 2)] * 2
        assert [type(result) for result in results[2:]] == [QueueFull] * 2

    gate = Gate()
    with working(fake_engine(FakeModel(gate), max_running=1, max_waiting=1)) as worker:
        within(lambda: main(worker))


def test_what_waits_too_long_is_told_that_the_queue_is_full() -> None:
    async def main(worker: Worker) -> None:
        first = asyncio.create_task(collect(worker.stream([20], greedy(100))))
        await until(lambda: worker.stats().running == 1)
        with pytest.raises(QueueFull, match="waited too long"):
            await collect(worker.stream([21], greedy(2, n=2)))
        assert await first == continuation([20], 100)
        assert (worker.stats().gave_up, worker.stats().waiting) == (1, 0)

    clock = Clock()

    def slow(tokens: list[int]) -> Tensor:
        clock.now += 1.0
        time.sleep(0.002)  # so that the other is in the queue before this one ends
        return one_peak(tokens)

    engine = fake_engine(FakeModel(slow), clock=clock, max_running=1)
    with working(engine, patience=4.0) as worker:
        within(lambda: main(worker))
    engine.check()


def test_a_failing_model_raises_in_the_stream_and_the_next_one_works() -> None:
    def explosive(tokens: list[int]) -> Tensor:
        if tokens[0] == 66:
            raise RuntimeError("out of memory")
        return torch.full((600,), float("nan")) if tokens[0] == 67 else one_peak(tokens)

    with working(fake_engine(FakeModel(explosive))) as worker:
        with pytest.raises(ServiceError, match="out of memory"):
            within(lambda: collect(worker.stream([66], greedy(4, n=2))))
        with pytest.raises(ServiceError, match="not finite"):
            within(lambda: collect(worker.stream([67], greedy(4))))
        assert within(lambda: collect(worker.stream([20], greedy(4)))) == continuation([20], 4)
        assert worker.healthy()


def test_a_defect_in_a_submission_is_its_own_streams_error_and_the_engine_serves_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = fake_engine()
    with working(engine) as worker:
        with monkeypatch.context() as broken:
            broken.setattr(engine._admission, "requests", lambda *_: 1 // 0)
            with pytest.raises(ServiceError, match="ZeroDivisionError"):
                within(lambda: collect(worker.stream([20], greedy(4))))
        assert within(lambda: collect(worker.stream([20], greedy(4)))) == continuation([20], 4)
        assert worker.healthy()
    engine.check()


@pytest.mark.parametrize("wrong", [pytest.param(10**400, id="huge"), 1.5, "1"])
def test_a_priority_or_deadline_that_is_no_such_number_is_refused_at_the_call(wrong: Any) -> None:
    with working() as worker:
        with pytest.raises(InvalidValue, match="priority"):
            worker.stream([20], greedy(), priority=wrong)
        if wrong != 1.5:
            with pytest.raises(InvalidValue, match="deadline"):
                worker.stream([20], greedy(), deadline=wrong)
        assert within(lambda: collect(worker.stream([20], greedy(4)))) == continuation([20], 4)


def test_a_prediction_is_encoded_once_and_in_neither_the_engines_thread_nor_the_loops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = fake_engine()
    encode, threads = engine.tokenizer.encode, []

    def noted(text: str) -> list[int]:
        threads.append(threading.current_thread())
        return encode(text)

    monkeypatch.setattr(engine.tokenizer, "encode", noted)
    with working(engine) as worker:
        stream = worker.stream([20], greedy(4, n=3, prediction="values + 1"))
        within(lambda: collect(stream))
        assert len(threads) == 1
        assert threads[0] not in (worker._thread, threading.main_thread())


def test_stop_ends_every_stream_and_refuses_new_ones() -> None:
    async def main(worker: Worker) -> None:
        tasks = [asyncio.create_task(collect(worker.stream([20 + i], greedy(100)))) for i in range(3)]
        await asyncio.to_thread(gate.reached.wait, SECONDS)
        stopping = asyncio.create_task(asyncio.to_thread(worker.stop))
        await until(lambda: not worker.healthy())
        gate.open.set()
        await stopping
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [EngineStopped] * 3

    gate = Gate()
    with working(fake_engine(FakeModel(gate))) as worker:
        assert worker.healthy()
        within(lambda: main(worker))
        with pytest.raises(EngineStopped, match="shutting down"):
            worker.stream([20], greedy())
        worker.stop()


def test_a_stream_begun_before_the_stop_but_read_after_it_raises() -> None:
    with working() as worker:
        stream = worker.stream([20], greedy())
        worker.stop()
        with pytest.raises(EngineStopped):
            within(lambda: collect(stream))


def test_before_the_start_streams_are_refused() -> None:
    worker = Worker(fake_engine())
    assert not worker.healthy()
    with pytest.raises(EngineStopped, match="not been started"):
        worker.stream([20], greedy())
    worker.stop()


def test_a_dead_thread_is_seen_and_no_stream_hangs() -> None:
    class Mortal(FakeModel):
        def __call__(self, batch: Any, /) -> Tensor:
            raise SystemExit("killed")

    async def main(worker: Worker) -> None:
        tasks = [asyncio.create_task(collect(worker.stream([20 + i], greedy(100)))) for i in range(3)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [EngineStopped] * 3
        assert "killed" in str(results[0])
        await until(lambda: not worker.healthy())
        with pytest.raises(EngineStopped, match="killed"):
            worker.stream([20], greedy())

    with working(fake_engine(Mortal())) as worker:
        within(lambda: main(worker))


def test_a_stream_whose_loop_is_gone_does_not_disturb_the_others() -> None:
    gate = Gate()
    with working(fake_engine(FakeModel(gate))) as worker:
        loop = asyncio.new_event_loop()
        stream = worker.stream([20], greedy(5))
        pending = loop.create_task(anext(stream))
        loop.run_until_complete(asyncio.sleep(0.01))
        assert gate.reached.wait(SECONDS)
        pending.cancel()
        loop.run_until_complete(asyncio.gather(pending, return_exceptions=True))
        loop.close()
        gate.open.set()
        assert within(lambda: collect(worker.stream([21], greedy(4)))) == continuation([21], 4)


def test_an_idle_engine_takes_no_steps() -> None:
    engine = fake_engine()
    with working(engine) as worker:
        within(lambda: collect(worker.stream([20], greedy(2))))
        steps = threading.Event()
        engine.step = lambda: steps.set() or []  # type: ignore[method-assign,func-returns-value]
        assert not steps.wait(0.05)


def test_a_stream_brings_tenant_priority_and_deadline_to_the_engine() -> None:
    async def main(worker: Worker) -> list[int]:
        prompt = list(range(20, 40))
        counts = []
        for tenant in ("a", "b", "a"):
            stream = worker.stream(prompt, greedy(2), tenant=tenant, priority=1, deadline=60)
            counts.append([delta async for delta in stream][-1].num_cached_tokens)
        return counts

    with working() as worker:
        assert within(lambda: main(worker)) == [0, 0, 19]
        with pytest.raises(InvalidValue, match="deadline"):
            worker.stream([20], greedy(), deadline=-1)
