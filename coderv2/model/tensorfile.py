"""One safetensors file, memory-mapped and distrusted: everything its header claims is checked before use.

We read the format ourselves, since a loader that promises to name the damaged tensor and to hand back each page after
copying it needs both the header and the mapping in its own hands. Files are written by the safetensors library.
"""

import json
import math
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coderv2.errors import BadCheckpoint, Unsupported

_DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
}
_HEADER_LIMIT = 100_000_000  # bytes; the format's own bound


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: kind, shape, and byte range within the data section."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class TensorFile:
    """An open safetensors file; `entries` maps tensor names to where they lie."""

    def __init__(self, path: Path) -> None:
        self.path = path
        size = path.stat().st_size
        if size < 8:
            raise BadCheckpoint(f"{path}: {size} bytes, too short for a safetensors header")
        with path.open("rb") as file:
            # A private mapping, since torch wants memory that it could write to; nothing ever is written.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        try:
            self._start, header = self._header(size)
            self.entries = {
                name: self._entry(name, raw) for name, raw in header.items() if name != "__metadata__"
            }
            self._check_layout(size - self._start)
        except BaseException:
            self.close()
            raise

    def _header(self, size: int) -> tuple[int, dict[str, Any]]:
        length = int.from_bytes(self._map[:8], "little")
        if length > min(size - 8, _HEADER_LIMIT):
            raise BadCheckpoint(
                f"{self.path}: header claims {length} bytes, the file has {size - 8} after it"
            )
        try:
            header = json.loads(self._map[8 : 8 + length])
        except (ValueError, RecursionError) as error:
            raise BadCheckpoint(f"{self.path}: header is not JSON: {error}") from None
        if not isinstance(header, dict):
            raise BadCheckpoint(f"{self.path}: header is a {type(header).__name__}, not an object")
        return 8 + length, header

    def _entry(self, name: str, raw: Any) -> Entry:
        try:
            begin, end = raw["data_offsets"]
            entry = Entry(raw["dtype"], tuple(raw["shape"]), begin, end)
        except (TypeError, KeyError, ValueError):
            raise BadCheckpoint(
                f"{self.path}: {name}: header entry lacks dtype, shape or data_offsets"
            ) from None
        counts = (*entry.shape, begin, end)
        if not isinstance(entry.dtype, str) or not all(type(n) is int and 0 <= n < 2**63 for n in counts):
            raise BadCheckpoint(f"{self.path}: {name}: header entry holds numbers out of range")
        self._check_extent(name, entry)
        return entry

    def _check_extent(self, name: str, entry: Entry) -> None:
        if entry.dtype not in _DTYPES:
            raise Unsupported(
                f"{self.path}: {name} is of dtype {entry.dtype}; this version reads {', '.join(_DTYPES)}"
            )
        needed = math.prod(entry.shape) * _DTYPES[entry.dtype].itemsize
        if entry.end - entry.begin != needed:
            raise BadCheckpoint(
                f"{self.path}: {name}: shape {list(entry.shape)} of {entry.dtype} takes {needed} bytes, "
                f"its offsets hold {entry.end - entry.begin}"
            )

    def _check_layout(self, data_size: int) -> None:
        """Tensors must tile the data section: no overlap, no gap, nothing past the end."""
        ordered = sorted(self.entries.items(), key=lambda item: (item[1].begin, item[1].end))
        for (first, a), (second, b) in pairwise(ordered):
            if b.begin < a.end:
                raise BadCheckpoint(f"{self.path}: {second} overlaps {first} ({b.begin} < {a.end})")
            if b.begin > a.end:
                raise BadCheckpoint(
                    f"{self.path}: {b.begin - a.end} bytes between {first} and {second} belong to none"
                )
        name, last = ordered[-1] if ordered else ("", Entry("F32", (), 0, 0))
        if last.end > data_size:
            raise BadCheckpoint(
                f"{self.path}: truncated: {name} ends at byte {last.end}, the file at {data_size}"
            )
        if last.end < data_size:
            raise BadCheckpoint(f"{self.path}: {data_size - last.end} bytes after the last tensor {name}")

    def read_into(
        self, name: str, target: Tensor, part: Callable[[Tensor], Tensor] = lambda whole: whole
    ) -> None:
        """Copies a tensor, or a `part` of it, into `target` (same shape, any float dtype); refuses NaN and infinities.

        The pages read are given back at once, so a load's memory is its weights and not also the file.
        """
        entry = self.entries[name]
        if target.numel() == 0:
            return
        offset = self._start + entry.begin
        source = torch.frombuffer(self._map, dtype=torch.uint8, count=entry.end - entry.begin, offset=offset)
        target.copy_(part(_aligned(source, _DTYPES[entry.dtype]).view(entry.shape)))
        low, high = (float(bound) for bound in torch.aminmax(target))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise BadCheckpoint(f"{self.path}: {name} holds NaN or infinite values")
        self._forget(offset, entry.end - entry.begin)

    def _forget(self, offset: int, length: int) -> None:
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            first = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
            if (whole := (offset + length - first) // mmap.PAGESIZE * mmap.PAGESIZE) > 0:
                self._map.madvise(mmap.MADV_DONTNEED, first, whole)

    def close(self) -> None:
        """Unmaps the file."""
        self._map.close()


def _aligned(bytes_N: Tensor, dtype: torch.dtype) -> Tensor:
    """The bytes as numbers; a file whose header length is odd leaves them unaligned, which only a copy mends."""
    if bytes_N.data_ptr() % dtype.itemsize:
        bytes_N = bytes_N.clone()
    return bytes_N.view(dtype)
