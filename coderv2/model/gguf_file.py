"""One GGUF file, memory-mapped and distrusted: every count, size and offset it claims is checked before use."""

import math
import mmap
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from coderv2.errors import BadCheckpoint, Unsupported, shown
from coderv2.kernels import ggml
from coderv2.kernels.formats import Weight

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEEPEST = 4  # arrays within arrays; real files have none
_MOST_DIMENSIONS = 4
# Far above what any model has: a header is never worth more memory and time than this.
_MOST_HEADER_BYTES, _MOST_ENTRIES, _MOST_VALUES = 1 << 26, 1 << 16, 1 << 22
_LONGEST_NAME, _LONGEST_KEY = 64, 65535  # bytes; both are the format's
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")
_PAGE = mmap.PAGESIZE


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies; `shape` outermost first."""

    type: int
    shape: tuple[int, ...]
    begin: int
    size: int

    @property
    def kind(self) -> ggml.GgmlType:
        """Its number type."""
        return ggml.TYPES[self.type]


class GgufFile:
    """An open file: `metadata` by key, `entries` by tensor name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = path.stat().st_size
        if self._size < 24:
            raise BadCheckpoint(f"{path}: {self._size} bytes, too short for a GGUF header")
        self._file = path.open("rb")
        self._map = self._mapped()
        self._at = 0
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def _mapped(self) -> mmap.mmap:
        try:
            # A private mapping, since torch wants memory that it could write to; nothing ever is written.
            return mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError as error:
            self._file.close()
            raise BadCheckpoint(f"{self.path}: cannot be mapped into memory: {error.strerror}") from None

    def _read(self) -> None:
        if self._take(4) != _MAGIC:
            self._fail("not a GGUF file: it does not start with GGUF")
        version = self._number("<I")
        if version not in _VERSIONS:
            raise Unsupported(f"{self.path}: GGUF version {version}; this version reads {_VERSIONS}")
        tensors = self._count("tensors", 24, _MOST_ENTRIES)
        keys = self._count("metadata keys", 13, _MOST_ENTRIES)
        self.metadata: dict[str, Any] = {}
        for _ in range(keys):
            self._metadata_entry()
        named = [self._tensor_info() for _ in range(tensors)]
        alignment = self.metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1) or alignment > 1 << 20:
            self._fail(f"general.alignment is {shown(alignment)}, not a power of two from 8 on")
        start = -(-self._at // alignment) * alignment
        self.entries = self._placed(named, start, alignment)

    def _metadata_entry(self) -> None:
        key = self._name("a metadata key", _LONGEST_KEY)
        if key in self.metadata:
            self._fail(f"metadata key {shown(key)} twice")
        self.metadata[key] = self._value(self._number("<I"), key, _DEEPEST)

    def _value(self, kind: int, key: str, depth: int) -> Any:
        if kind not in _SCALARS and kind not in (_STRING, _ARRAY):
            self._fail(f"{shown(key)}: values of unknown type {kind}")
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._string(shown(key))
        if depth == 0:
            self._fail(f"{shown(key)}: arrays nested more than {_DEEPEST} deep")
        return self._array(key, depth - 1)

    def _array(self, key: str, depth: int) -> list[Any]:
        kind = self._number("<I")
        if kind not in _SCALARS and kind not in (_STRING, _ARRAY):
            self._fail(f"{shown(key)}: values of unknown type {kind}")
        least = struct.calcsize(_SCALARS[kind]) if kind in _SCALARS else 8 if kind == _STRING else 12
        count = self._count(f"values of {shown(key)}", least, _MOST_VALUES)
        if kind in _SCALARS:
            return list(struct.unpack(f"<{count}{_SCALARS[kind][1]}", self._take(count * least)))
        if kind == _STRING:
            return self._strings(count, shown(key))
        return [self._value(kind, key, depth) for _ in range(count)]

    def _tensor_info(self) -> tuple[str, int, tuple[int, ...], int]:
        name = self._name("a tensor's name", _LONGEST_NAME)
        dimensions = self._number("<I")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            self._fail(f"{name}: {dimensions} dimensions")
        shape = tuple(reversed([self._number("<Q") for _ in range(dimensions)]))
        return name, self._number("<I"), shape, self._number("<Q")

    def _placed(
        self, named: list[tuple[str, int, tuple[int, ...], int]], start: int, alignment: int
    ) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        for name, kind, shape, offset in named:
            if name in entries:
                self._fail(f"tensor {name} twice")
            entries[name] = self._entry(name, kind, shape, start + offset)
            if offset % alignment:
                self._fail(f"{name}: offset {offset} is no multiple of the alignment {alignment}")
        self._check_apart(entries)
        return entries

    def _entry(self, name: str, kind: int, shape: tuple[int, ...], begin: int) -> Entry:
        if kind not in ggml.TYPES:
            known = ", ".join(one.name for one in ggml.TYPES.values())
            raise Unsupported(f"{self.path}: {name} is of GGML type {kind}; this version reads {known}")
        if 0 in shape or math.prod(shape) >= 1 << 60:
            self._fail(f"{name}: shape {list(shape)}")
        if shape[-1] % ggml.TYPES[kind].columns:
            one = ggml.TYPES[kind]
            self._fail(f"{name}: rows of {shape[-1]} are no multiple of {one.columns}, as {one.name} needs")
        size = ggml.TYPES[kind].size(shape)
        if begin + size > self._size:
            self._fail(f"{name}: ends at byte {begin + size}, the file at {self._size}: truncated or damaged")
        return Entry(kind, shape, begin, size)

    def _check_apart(self, entries: dict[str, Entry]) -> None:
        end, last = 0, ""
        for name, entry in sorted(entries.items(), key=lambda item: item[1].begin):
            if entry.begin < end:
                self._fail(f"{name} overlaps {last}")
            end, last = entry.begin + entry.size, name

    def _take(self, count: int) -> bytes:
        if count > self._room():
            self._fail(f"ends at byte {self._size}, within its header")
        self._at += count
        return self._map[self._at - count : self._at]

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _room(self) -> int:
        """Bytes that the header may still have."""
        return min(self._size, _MOST_HEADER_BYTES) - self._at

    def _count(self, what: str, least: int, most: int = _MOST_HEADER_BYTES) -> int:
        """A number of things that take at least `least` bytes each."""
        count: int = self._number("<Q")
        if count * least > self._room() or count > most:
            self._fail(f"claims {count} {what}, more than the file has room for or any model needs")
        return count

    def _string(self, what: str) -> str:
        try:
            return self._take(self._count(f"bytes of {what}", 1)).decode("utf-8")
        except UnicodeDecodeError as error:
            self._fail(f"{what} is not UTF-8: {error}")

    def _strings(self, count: int, what: str) -> list[str]:
        """As many of `_string`, in a tenth of the time: a vocabulary and its merges are two hundred thousand."""
        strings: list[str] = []
        end = self._at + self._room()
        with suppress(UnicodeDecodeError):
            while len(strings) < count and (begin := self._at + _LENGTH.size) <= end:
                stop = begin + _LENGTH.unpack_from(self._map, self._at)[0]
                if stop > end:
                    break
                strings.append(str(self._map[begin:stop], "utf-8"))
                self._at = stop
        if len(strings) < count:
            self._string(what)  # fails, and says why
        return strings

    def _name(self, what: str, longest: int) -> str:
        name = self._string(what)
        if not name or not name.isprintable() or len(name.encode()) > longest:
            self._fail(f"{what} is {shown(name)}: not 1 to {longest} printable bytes")
        return name

    def _fail(self, what: str) -> NoReturn:
        raise BadCheckpoint(f"{self.path}: {what}")

    def bytes_of(self, name: str) -> Tensor:
        """A tensor's bytes, uint8: a view of the file."""
        entry = self.entries[name]
        return torch.frombuffer(self._map, dtype=torch.uint8, count=entry.size, offset=entry.begin)

    def packed(self, name: str) -> Weight:
        """A tensor in kernel order; ggml.NotFinite where it holds NaN or infinities.

        Quants are read and not mapped: on two cores the pages' faults took longer than all the rest of a load.
        """
        entry = self.entries[name]
        if not entry.kind.floats:
            return ggml.pack(entry.type, self.bytes_of(name), entry.shape)
        try:
            return ggml.pack_from(self._file.fileno(), entry.begin, entry.type, entry.shape)
        except EOFError:
            self._fail(f"{name}: the file ends within it, or cannot be read")

    def forget(self, name: str) -> None:
        """Gives the tensor's pages back, so that a load's memory is its weights and not also the file."""
        entry = self.entries[name]
        first = -(-entry.begin // _PAGE) * _PAGE
        whole = (entry.begin + entry.size - first) // _PAGE * _PAGE
        if whole > 0 and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, first, whole)

    def close(self) -> None:
        """Unmaps the file, once nothing looks at its tensors."""
        self._file.close()
        self._map.close()
