"""Memory for packed weights: taken from the system or mapped from a file; checksums."""

import atexit
import mmap
import os
from contextlib import suppress
from threading import Event, Thread, get_native_id

import numpy as np
import torch
from torch import Tensor

from coderv2 import ram
from coderv2.kernels.cpu import kernels

_PIECE = 1 << 24  # bytes at a time without the CPU kernels
_CHUNK = 1 << 29
_HUGE = 1 << 21
_ALIGNED = 64
_MOVED = 1 << 26  # bytes at a time
_ROOM = 1.1
_LAST = 19  # the priority of what only idle processors do
_settling: list[Thread] = []
_stopping = Event()
_chunk: Tensor = torch.empty(0, dtype=torch.uint8)
"""What is left of the memory that weights are cut from."""


def empty_bytes(count: int) -> Tensor:
    """Memory for a packed weight, in huge pages where the system gives them: a stream through 4 KiB pages reaches
    little more than half the speed.

    Weights are cut from large chunks, so that none wastes the rest of a huge page; what is not written costs nothing.
    """
    global _chunk
    needed = -(-count // _ALIGNED) * _ALIGNED
    if needed > _chunk.numel():
        _chunk = fresh_bytes(max(needed, _CHUNK))
    taken, _chunk = _chunk[:count], _chunk[needed:]
    return taken


@torch.inference_mode(mode=False)  # else nobody might write to it outside of that mode
def fresh_bytes(count: int) -> Tensor:
    """Zeros straight from the system, which cost neither memory nor time until they are written."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.from_numpy(np.zeros(count, dtype=np.uint8))
    # Private: memory that could be shared comes in small pages only.
    memory = mmap.mmap(-1, count + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    first = -whole.data_ptr() % _HUGE
    return whole[first : first + count]


def mapped_bytes(file: int) -> Tensor:
    """All bytes of an open file (its descriptor), where the system keeps them: what is written to them stays ours."""
    return torch.frombuffer(mmap.mmap(file, 0, access=mmap.ACCESS_COPY), dtype=torch.uint8)


def settle(mapped: Tensor) -> None:
    """Moves mapped bytes into huge pages of our own in the background, where streams through them are faster.

    For readers they stay where they are; nobody may write meanwhile (`settled` waits). Nothing moves where memory is
    too short for both the file and them, or the system cannot.
    """
    if kernels is not None and ram.free_bytes() > _ROOM * mapped.numel():
        thread = Thread(target=_settle, args=(mapped,), name="coderv2-settle", daemon=True)
        _settling.append(thread)
        thread.start()


def settled() -> None:
    """Returns when nothing moves any more."""
    while _settling:
        _settling.pop().join()


@atexit.register
def _stop() -> None:
    """A thread that is in C++ when Python ends would take the process down."""
    _stopping.set()
    settled()


def _settle(mapped: Tensor) -> None:
    with suppress(AttributeError, OSError):  # only Linux knows a thread's own priority
        os.setpriority(os.PRIO_PROCESS, get_native_id(), _LAST)
    address, end = mapped.data_ptr() + -mapped.data_ptr() % _HUGE, mapped.data_ptr() + mapped.numel()
    for first in range(address, end - _HUGE + 1, _MOVED):
        if _stopping.is_set() or not kernels.to_huge_pages(
            first, min(_MOVED, (end - first) // _HUGE * _HUGE)
        ):
            return


def checksum(data: Tensor) -> int:
    """Of contiguous bytes: the sum of (2i + 1) · word i modulo 2⁶⁴, the last of the 8-byte words filled up with zeros.

    Any change of one word, and any swap of two that differ, changes it; it is for damage, not for malice.
    """
    if kernels is not None:
        return int(kernels.checksum(data.data_ptr(), data.numel()))
    pieces = enumerate(data.split(_PIECE))
    return sum(_checksum_from(i * _PIECE // 8, piece) for i, piece in pieces) % (1 << 64)


def _checksum_from(first_word: int, data: Tensor) -> int:
    filled = torch.nn.functional.pad(data, (0, -data.numel() % 8)).numpy().view(np.uint64)
    weights = np.arange(2 * first_word + 1, 2 * (first_word + len(filled)) + 1, 2, dtype=np.uint64)
    return int((filled * weights).sum(dtype=np.uint64))
