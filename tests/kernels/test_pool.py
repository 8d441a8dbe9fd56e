"""The kernels' threads: how many there are changes nothing but the time."""

import importlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from coderv2.kernels import native, native_attention
from tests.kernels.packed import random, random_weight

WEIGHT = random_weight("int4", 96, 288)


@pytest.fixture
def set_threads(isa: str) -> Iterator[Callable[[int], None]]:
    """Sets them; afterwards there are two again."""
    kernels = importlib.import_module(f"coderv2.kernels.cpu._{isa}")
    yield kernels.set_threads
    kernels.set_threads(2)


def _everything() -> list[Tensor]:
    """One call of each kernel that uses threads."""
    x_TD, network = random(37, 288), [random_weight("int4", 4, 64, 288, seed=seed) for seed in (1, 2)]
    weights_TK, experts_TK = random(37, 4, seed=4).softmax(-1).topk(2)
    routed = (*network, random_weight("int8", 4, 288, 64, seed=3))
    q_THX, k_SHX = random(37, 4, 24), random(300, 4, 24, seed=1)
    pages_PSC, pages_PSR = random(20, 16, 32), random(20, 16, 24, seed=1)
    return [
        native.linear(x_TD, WEIGHT),
        native.mixture(x_TD, weights_TK, experts_TK, routed, None),  # type: ignore[arg-type]
        native_attention.rms_norm(x_TD, torch.ones(288), 1e-6),
        native_attention.mla_prefill(q_THX, k_SHX, k_SHX, q_starts=[0, 37], k_starts=[0, 300], scale=0.2),
        native_attention.mla_decode(
            random(37, 4, 32, seed=2),
            q_THX,
            pages_PSC,
            pages_PSR,
            starts=[0, 37],
            lengths=[300],
            page_tables=[torch.randperm(20)[:19].sort().values],
            scale=0.2,
        ),
    ]


def _alike(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def test_no_bit_depends_on_the_number_of_threads(set_threads: Callable[[int], None]) -> None:
    torch.manual_seed(0)
    set_threads(1)
    alone = _everything()
    for count in (2, 3, 8, 1, 4):
        torch.manual_seed(0)
        set_threads(count)
        assert _alike(_everything(), alone)


def test_callers_at_the_same_time_get_what_they_would_alone(set_threads: Callable[[int], None]) -> None:
    inputs = [random(1 + 7 * i, 288, seed=i) for i in range(4)]
    alone = [native.linear(x_TD, WEIGHT) for x_TD in inputs]
    wrong: list[int] = []

    def call(i: int) -> None:
        for _ in range(50):
            if not torch.equal(native.linear(inputs[i], WEIGHT), alone[i]):
                wrong.append(i)

    callers = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for count in (1, 3, 2):  # while they run
        set_threads(count)
    for caller in callers:
        caller.join(timeout=120)
        assert not caller.is_alive()
    assert not wrong


@pytest.mark.filterwarnings(
    "ignore:This process:DeprecationWarning"
)  # Python 3.12 on forks of threaded processes
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_the_child_of_a_fork_has_threads_of_its_own(set_threads: Callable[[int], None]) -> None:
    x_TD = random(37, 288)
    expected_TO = native.linear(x_TD, WEIGHT)  # the parent's threads are there now
    child = os.fork()
    if child == 0:
        try:
            same = all(torch.equal(native.linear(x_TD, WEIGHT), expected_TO) for _ in range(3))
            os._exit(0 if same else 1)
        except BaseException:
            os._exit(2)
    assert _exit_code(child, seconds=120) == 0
    assert torch.equal(native.linear(x_TD, WEIGHT), expected_TO)


def _exit_code(child: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the child hangs")


def test_after_a_refused_call_the_next_one_works(set_threads: Callable[[int], None]) -> None:
    x_TD = random(37, 288)
    expected_TO = native.linear(x_TD, WEIGHT)
    network = (random_weight("int4", 2, 16, 288),) * 2 + (random_weight("int4", 2, 288, 16),)
    for _ in range(3):
        with pytest.raises(IndexError):
            native.embedding(torch.tensor([96]), WEIGHT)
        with pytest.raises(IndexError):
            native.mixture(x_TD, torch.ones(37, 1), torch.full((37, 1), 9), network, None)
        assert torch.equal(native.linear(x_TD, WEIGHT), expected_TO)


def test_waiting_threads_take_no_processor_time(set_threads: Callable[[int], None]) -> None:
    set_threads(4)
    native.linear(random(37, 288), WEIGHT)
    time.sleep(0.05)  # they spin for some microseconds before they park
    begin = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - begin < 0.05
