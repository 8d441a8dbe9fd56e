"""A model's GGUF file, or all of its parts, as one: metadata of the first, tensors of all."""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from coderv2.errors import BadCheckpoint, Unsupported, shown
from coderv2.kernels import ggml
from coderv2.kernels.formats import Weight
from coderv2.model.gguf_file import Entry, GgufFile
from coderv2.model.gguf_names import ARCHITECTURE

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


Stored = tuple[int, Tensor, tuple[int, ...]]
"""A tensor's type, bytes and shape, as `ggml` takes them."""


class Gguf:
    """One model's file, or all of its parts."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        """The files are closed with `stack`. Raises BadCheckpoint or Unsupported, which name the file."""
        self.path = path
        self._files = [self._open(part, stack) for part in _parts(path)]
        self.metadata = self._files[0].metadata
        self._check_parts()
        self._file_of = {name: file for file in self._files for name in file.entries}
        if self.metadata.get("general.architecture") != ARCHITECTURE:
            raise Unsupported(
                f"{path}: a model of architecture {shown(self.metadata.get('general.architecture'))}; "
                f"this program runs {ARCHITECTURE!r} only"
            )

    @staticmethod
    def _open(path: Path, stack: ExitStack) -> GgufFile:
        file = GgufFile(path)
        stack.callback(_close_quietly, file)
        return file

    def _check_parts(self) -> None:
        for number, file in enumerate(self._files):
            wanted = file.metadata.get("split.count", 1) or 1
            if wanted != len(self._files):
                raise BadCheckpoint(
                    f"{file.path}: one of {shown(wanted)} parts, but its name stands for {len(self._files)}; keep the "
                    "parts' names as they were made (…-00001-of-00003.gguf) and give the first"
                )
            if (place := file.metadata.get("split.no", number)) != number:
                raise BadCheckpoint(
                    f"{file.path}: named as part {number + 1}, but it is part {shown(place)} + 1"
                )
        names = [name for file in self._files for name in file.entries]
        if len(set(names)) < len(names):
            raise BadCheckpoint(f"{self.path}: a tensor is in two of its parts")

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def entry(self, name: str) -> Entry:
        """Where a tensor lies; BadCheckpoint when it is missing."""
        if name not in self._file_of:
            raise BadCheckpoint(f"{self.path}: {name} is missing")
        return self._file_of[name].entries[name]

    def matrix(self, name: str) -> Entry:
        """The same for a tensor of two dimensions."""
        entry = self.entry(name)
        if len(entry.shape) != 2:
            raise BadCheckpoint(f"{self.path}: {name} has shape {list(entry.shape)}, not two dimensions")
        return entry

    def packed(self, name: str, ranges: Sequence[range]) -> Weight:
        """The same as `part` in kernel order."""
        try:
            if tuple(len(own) for own in ranges) == self.entry(name).shape:
                return self._file_of[name].packed(name)
            return ggml.pack(*self._cut(name, ranges))
        except ggml.NotFinite:
            raise self._not_finite(name) from None

    def part(self, name: str, ranges: Sequence[range]) -> Stored:
        """So much of each of a tensor's axes, looked through; Unsupported where its quants do not come apart there."""
        kind, data, shape = self._cut(name, ranges)
        if not ggml.is_finite(kind, data):
            raise self._not_finite(name)
        return kind, data, shape

    def _cut(self, name: str, ranges: Sequence[range]) -> Stored:
        entry, data = self.entry(name), self._file_of[name].bytes_of(name)
        try:
            part = ggml.part(entry.type, data, entry.shape, ranges)
        except ValueError as error:
            raise Unsupported(
                f"{self.path}: {name} in {entry.kind.name}: {error}; take fewer ranks, or another file"
            ) from None
        return entry.type, part, tuple(len(own) for own in ranges)

    def _not_finite(self, name: str) -> BadCheckpoint:
        return BadCheckpoint(f"{self.path}: {name} holds NaN or infinite values")

    def forget(self, name: str) -> None:
        """Gives a tensor's memory back."""
        self._file_of[name].forget(name)

    @property
    def names(self) -> Iterator[str]:
        """Of all tensors."""
        return iter(self._file_of)

    def value(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """A metadata value of this architecture; BadCheckpoint when it is missing or of another kind."""
        full = f"{ARCHITECTURE}.{key}"
        found = self.metadata.get(full, default)
        if found is None:
            raise BadCheckpoint(f"{self.path}: metadata lacks {full}")
        if not isinstance(found, kind) or isinstance(found, bool) != (kind is bool):
            raise BadCheckpoint(f"{self.path}: {full} is {shown(found)}")
        return found


def _close_quietly(file: GgufFile) -> None:
    with suppress(BufferError):  # a tensor in an error's traceback still looks at it; it goes with that
        file.close()


def _parts(path: Path) -> list[Path]:
    match = _PART.fullmatch(path.name)
    if match is None:
        return [path]
    stem, count = match[1], int(match[3])
    if not 1 <= count <= 1000:
        raise BadCheckpoint(f"{path}: {count} parts")
    parts = [path.with_name(f"{stem}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]
    for part in parts:
        if not part.is_file():
            raise BadCheckpoint(f"{part}: not found; {path.name} is one of {count} parts, all of them needed")
    return parts
