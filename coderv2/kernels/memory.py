"""Memory for packed weights, and files read into it with a checksum."""

import mmap
import os

import numpy as np
import torch
from torch import Tensor

from coderv2.kernels.cpu import kernels

_PIECE = 1 << 24  # bytes at a time without the CPU kernels
_CHUNK = 1 << 29
_HUGE = 1 << 21
_ALIGNED = 64
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


def read_bytes(file: int, offset: int, count: int, *, passing: bool = False) -> tuple[Tensor, int]:
    """`count` bytes of an open file (its descriptor) from `offset` on, and their checksum; else EOFError.

    What is only `passing` gets memory of its own, since a weight keeps all that it was cut from together with.
    """
    data = fresh_bytes(count) if passing else empty_bytes(count)
    if kernels is not None:
        failed, found = kernels.read_file(file, offset, data.data_ptr(), count)
        if failed:
            raise EOFError
        return data, int(found)
    view = data.numpy().data
    for first in range(0, count, _PIECE):
        piece = view[first : first + _PIECE]
        if os.preadv(file, [piece], offset + first) != len(piece):
            raise EOFError
    return data, checksum(data)
