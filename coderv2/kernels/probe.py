"""What this machine gives at best, measured: bytes read and operations per second.

An answer is bound by the first, a prompt by the second. Only the CPU kernels can measure it so: see `available`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from coderv2.kernels.cpu import kernels
from coderv2.kernels.memory import empty_bytes

KINDS = ("fp32", "bf16", "int8")
"""Arithmetic, as the kernels number it: float32; pairs of bfloat16; fours of int8, the weights of four bits."""
_LINE = 512
_STREAM = 1 << 20
_TURNS = 1_000_000
_TRIES = 5


@dataclass(frozen=True)
class Roof:
    """With `threads` threads: bytes and operations (two for a multiply-add) per second."""

    threads: int
    streaming: float
    """Bytes in order."""
    blocks: float
    """Bytes in blocks of `block_bytes`, in random order: as the experts of one token after another are read."""
    block_bytes: int
    operations: dict[str, float]


def available() -> bool:
    """True where the CPU kernels are."""
    return kernels is not None


def measure(threads: int, *, block_bytes: int = 5 << 20, size: int = 1 << 30) -> Roof:
    """Takes a second or two; `size`, the bytes that are read, should exceed every cache of the processor."""
    block_bytes = max(_LINE, block_bytes // _LINE * _LINE)
    buffer = empty_bytes(max(size, block_bytes))
    buffer.fill_(1)  # pages that nobody wrote would all be one
    with _threads(threads):
        return Roof(
            threads,
            _read(buffer, min(_STREAM, buffer.numel() // _LINE * _LINE), shuffled=False),
            _read(buffer, block_bytes, shuffled=True),
            block_bytes,
            _operations(),
        )


def _operations() -> dict[str, float]:
    best = {kind: _multiply(number) for number, kind in enumerate(KINDS)}
    # Without instructions for bfloat16, attention widens its numbers beforehand and multiplies in float32.
    return best | {"bf16": max(best["bf16"], best["fp32"])}


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = kernels.threads()
    kernels.set_threads(count)
    try:
        yield
    finally:
        kernels.set_threads(before)


def _read(buffer: Tensor, block_bytes: int, *, shuffled: bool) -> float:
    count = buffer.numel() // block_bytes
    order = (torch.randperm(count) if shuffled else torch.arange(count)).tolist()
    seconds = best_seconds(lambda: kernels.read_blocks(buffer.data_ptr(), block_bytes, order))
    return block_bytes * count / seconds


def _multiply(number: int) -> float:
    done = kernels.multiply_adds(number, 1000)  # threads that were parked are awake now
    seconds = best_seconds(lambda: kernels.multiply_adds(number, _TURNS))
    return 2 * int(done) * (_TURNS // 1000) / seconds


def best_seconds(work: Callable[[], object]) -> float:
    """The best of five after a first, since what else runs can only slow it down."""
    times = []
    for _ in range(_TRIES + 1):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times[1:])
