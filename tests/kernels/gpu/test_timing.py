"""What is timed is many calls at once, each on its own data; a GPU's clock that only calls move stands in for one."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch

import tests.kernels.gpu.place  # noqa: F401
from coderv2.kernels.gpu import timing


class Gpu:
    """Calls take `seconds` each, and 50 µs more where the host starts them one by one."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now, self.called = seconds, 0.0, Counter[int]()
        self.recording: list[int] | None = None

    def call(self, number: int) -> None:
        if self.recording is not None:
            self.recording.append(number)
        else:
            self.called[number] += 1
            self.now += self.seconds + 50e-6

    def event(self, **_: Any) -> Any:
        return Event(self)

    @contextmanager
    def graph(self, graph: Any) -> Iterator[None]:
        self.recording = graph.numbers
        yield
        self.recording = None


class Event:
    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self.at = gpu, 0.0

    def record(self) -> None:
        self.at = self._gpu.now

    def elapsed_time(self, end: "Event") -> float:
        return 1000 * (end.at - self.at)


class Graph:
    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self.numbers: list[int] = []

    def replay(self) -> None:
        self._gpu.called.update(self.numbers)
        self._gpu.now += self._gpu.seconds * len(self.numbers)


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Gpu]:
    """A GPU whose calls take so long."""

    def made(seconds: float) -> Gpu:
        gpu = Gpu(seconds)
        for name, value in (
            ("Event", gpu.event), ("graph", gpu.graph), ("CUDAGraph", partial(Graph, gpu)),
            ("synchronize", lambda: None),
        ):  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, value)
        return gpu

    return made


def calls(gpu: Gpu, number: int) -> timing.Calls:
    return [partial(gpu.call, n) for n in range(number)]


def test_a_short_kernel_is_timed_without_its_launch(on: Callable[[float], Gpu]) -> None:
    gpu = on(4e-6)
    assert timing.on_gpu(calls(gpu, 1)) == pytest.approx(4e-6)
    assert gpu.called[0] > timing.CALLS * timing.REPLAYS
    assert timing.eagerly(calls(gpu, 1)) == pytest.approx(54e-6), "what asks the host is timed as it comes"


def test_all_pieces_of_data_take_their_turn(on: Callable[[float], Gpu]) -> None:
    gpu, size = on(4e-6), 1 << 20
    number = timing.copies(size)
    assert number * size >= timing.COLD
    timing.on_gpu(calls(gpu, number))
    assert len(gpu.called) == number
    assert max(gpu.called.values()) <= min(gpu.called.values()) + 1 + timing.REPLAYS


@pytest.mark.parametrize("seconds", [0.5e-3, 5e-3, 0.3])
def test_long_calls_are_not_repeated_for_long(on: Callable[[float], Gpu], seconds: float) -> None:
    gpu = on(seconds)
    assert timing.on_gpu(calls(gpu, 1)) == pytest.approx(seconds)
    assert gpu.now <= (timing.REPLAYS + 1) * max(timing.SECONDS, seconds) + 3 * seconds
