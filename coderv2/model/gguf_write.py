"""GGUF files out: header first, then one tensor after another, so that no more than one is in memory."""

import math
import struct
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from coderv2.kernels.ggml import TYPES

_VERSION, _ALIGNMENT = 3, 32
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _UINT64 = 4, 5, 6, 7, 8, 9, 10


@dataclass(frozen=True)
class Planned:
    """A tensor to come; `shape` outermost first, `type` by its name."""

    name: str
    shape: tuple[int, ...]
    type: str

    @property
    def number(self) -> int:
        """The type's in files."""
        return next(number for number, kind in TYPES.items() if kind.name == self.type)

    @property
    def size(self) -> int:
        """Bytes."""
        return TYPES[self.number].size(self.shape)


class GgufWriter:
    """Used as a context: the file takes its name once it is whole, and nothing stays of one that was broken off."""

    def __init__(self, path: Path, metadata: Mapping[str, Any], tensors: Sequence[Planned]) -> None:
        self._path, self._partial = path, path.with_name(path.name + ".part")
        self._tensors = list(tensors)
        self._header = _header(metadata, tensors)
        self._file = self._partial.open("wb")

    def write(self, data: Tensor) -> None:
        """The next tensor's bytes, or a part of them; uint8."""
        self._file.write(data.contiguous().numpy().data)

    def end(self) -> None:
        """After a tensor's last bytes."""
        self._pad()

    def _pad(self) -> None:
        self._file.write(bytes(-self._file.tell() % _ALIGNMENT))

    def __enter__(self) -> "GgufWriter":
        with ExitStack() as stack:
            stack.push(self)
            self._file.write(self._header)
            self._pad()
            stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
            if error is None:
                self._partial.replace(self._path)
        finally:
            self._partial.unlink(missing_ok=True)


def _header(metadata: Mapping[str, Any], tensors: Sequence[Planned]) -> bytes:
    parts = [b"GGUF", struct.pack("<IQQ", _VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        kind, encoded = _value(value)
        parts += [_text(key), struct.pack("<I", kind), encoded]
    offset = 0
    for tensor in tensors:
        dimensions = len(tensor.shape)
        layout = f"<I{dimensions}QIQ"
        parts += [
            _text(tensor.name),
            struct.pack(layout, dimensions, *reversed(tensor.shape), tensor.number, offset),
        ]
        offset += math.ceil(tensor.size / _ALIGNMENT) * _ALIGNMENT
    return b"".join(parts)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _value(value: Any) -> tuple[int, bytes]:
    """Type and bytes. Whole numbers go as uint32 where they fit, within a list as int32, others as float32."""
    match value:
        case bool():
            return _BOOL, struct.pack("<?", value)
        case int():
            return (
                (_UINT32, struct.pack("<I", value))
                if value < 1 << 32
                else (_UINT64, struct.pack("<Q", value))
            )
        case float():
            return _FLOAT32, struct.pack("<f", value)
        case str():
            return _STRING, _text(value)
        case [str(), *_]:
            return _ARRAY, struct.pack("<IQ", _STRING, len(value)) + b"".join(map(_text, value))
        case [int(), *_]:
            return _ARRAY, struct.pack(f"<IQ{len(value)}i", _INT32, len(value), *value)
    raise TypeError(f"no value of metadata: {value!r}")
