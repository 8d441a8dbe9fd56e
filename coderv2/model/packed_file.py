"""`model.packed`: a model's weights on disk as they lie in memory, in kernel order: opening them is reading them.

    offset 0        magic "CODERV2P"; version, 0 (uint32); where the index begins, its length, its checksum (uint64)
    from 4096 on    values, each from a multiple of 4096 on; between them zeros
    at the end      the index, JSON: {"config": …, "values": {name: {format, shape, offset, bytes, checksum}}}

`format` is a number of `kernels.formats`; a vector (a norm) has none and is float32. The file is mapped, and its
checksums compared where it lies; then it moves into huge pages while the model works already.
"""

import json
import struct
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from tqdm import tqdm

from coderv2.errors import BadCheckpoint, Unsupported
from coderv2.kernels.formats import FORMATS, ROWS, Weight
from coderv2.kernels.memory import checksum, empty_bytes, mapped_bytes, settle
from coderv2.kernels.packing import unpack
from coderv2.model.attention import LatentAttention
from coderv2.model.checkpoint import PACKED, quantisation, without_quantisation
from coderv2.model.config import ModelConfig
from coderv2.model.pack import put, stored_shapes
from coderv2.model.parallel import Split, Team
from coderv2.model.published import meta_model
from coderv2.model.transformer import Transformer
from coderv2.model.weights import check_dtype, differences

NAME = "model.packed"
VERSION = 1
_MAGIC = b"CODERV2P"
_HEAD = struct.Struct("<8sIIQQQ")
_PAGE = 4096
_INDEX_LIMIT = 1 << 26  # bytes; ours takes 60 KB for Lite
_BY_CODE = {format.code: format for format in FORMATS.values()}


@dataclass(frozen=True)
class Entry:
    """One value; `format` None is a vector of float32."""

    format: int | None
    shape: tuple[int, ...]
    offset: int
    bytes: int
    checksum: int

    def needed(self) -> int:
        """Bytes that a value of this format and shape takes."""
        if self.format is None:
            return 4 * self.shape[0]
        *stack, O, I = self.shape
        each = _BY_CODE[self.format].bytes(O, I)
        for count in stack:
            each *= count
        return each


class Writer:
    """Writes a file value by value; it gets its name when it is whole."""

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self._path, self._config = folder / NAME, config
        self._partial = folder / f"{NAME}.part"
        self._file = self._partial.open("wb")
        self._file.write(bytes(_PAGE))
        self._values: dict[str, Entry] = {}

    def __enter__(self) -> "Writer":
        return self

    def add(self, name: str, value: Weight | Tensor) -> None:
        """Appends one value."""
        if isinstance(value, Weight):
            data, code, shape = value.data.flatten(), value.format.code, value.shape
        else:
            data, code, shape = value.float().contiguous().view(torch.uint8), None, tuple(value.shape)
        offset = self._file.tell()
        self._file.write(data.numpy().data)
        self._file.write(bytes(-data.numel() % _PAGE))
        self._values[name] = Entry(code, shape, offset, data.numel(), checksum(data))

    @property
    def bytes(self) -> int:
        """Written so far."""
        return self._file.tell()

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        try:
            with self._file:
                if kind is None:
                    self._finish()
            if kind is None:
                self._partial.replace(self._path)
        finally:
            self._partial.unlink(missing_ok=True)

    def _finish(self) -> None:
        values = {name: asdict(entry) for name, entry in self._values.items()}
        index = json.dumps({"config": self._config.to_dict(), "values": values}).encode()
        begin = self._file.tell()
        self._file.write(index)
        self._file.seek(0)
        self._file.write(_HEAD.pack(_MAGIC, VERSION, 0, begin, len(index), _sum(index)))


def _sum(data: bytes) -> int:
    return checksum(torch.frombuffer(bytearray(data), dtype=torch.uint8))


class PackedFile:
    """An open file, its index checked; `entries` by name, `config` as it was written."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        """Closed with `stack`. Raises BadCheckpoint or Unsupported, which name the file."""
        self.path = folder / NAME
        if not self.path.is_file():
            raise BadCheckpoint(f"{self.path}: not found; config.json says that the weights are packed")
        self._size = self.path.stat().st_size
        self._file = stack.enter_context(self.path.open("rb"))
        index = self._index()
        try:
            self.config = ModelConfig.from_dict(index["config"])
            self.entries = {name: self._entry(name, raw) for name, raw in index["values"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            self._fail(f"its index cannot be used: {error!r}")
        self._check_layout()
        self.mapped = mapped_bytes(self._file.fileno())

    def _index(self) -> dict[str, Any]:
        if self._size < _PAGE:
            self._fail(f"{self._size} bytes, too short for a header")
        magic, version, _, self._end, length, wanted = _HEAD.unpack(self._file.read(_HEAD.size))
        if magic != _MAGIC:
            self._fail("not a file of packed weights")
        if version != VERSION:
            raise Unsupported(f"{self.path}: version {version}; this version reads {VERSION}: convert again")
        if length > _INDEX_LIMIT or self._end + length != self._size:
            self._fail(
                f"its index ends at byte {self._end + length}, the file at {self._size}: truncated or damaged"
            )
        self._file.seek(self._end)
        raw = self._file.read(length)
        if _sum(raw) != wanted:
            self._fail("its index is damaged")
        index = json.loads(raw)
        return index if isinstance(index, dict) else self._fail("its index is no object")

    def _entry(self, name: str, raw: Mapping[str, Any]) -> Entry:
        entry = Entry(raw["format"], tuple(raw["shape"]), raw["offset"], raw["bytes"], raw["checksum"])
        numbers = (*entry.shape, entry.offset, entry.bytes, entry.checksum)
        if not all(type(n) is int and 0 <= n < 1 << 64 for n in numbers):
            self._fail(f"{name}: numbers out of range")
        if entry.format is not None and entry.format not in _BY_CODE:
            raise Unsupported(
                f"{self.path}: {name} is in format {entry.format}, which this version does not know"
            )
        if (
            len(entry.shape) not in ((1,) if entry.format is None else (2, 3))
            or entry.needed() != entry.bytes
        ):
            self._fail(f"{name}: shape {list(entry.shape)} does not take {entry.bytes} bytes")
        return entry

    def _check_layout(self) -> None:
        end = _PAGE
        for name, entry in sorted(self.entries.items(), key=lambda item: item[1].offset):
            if entry.offset != end:
                self._fail(f"{name}: begins at byte {entry.offset}, the one before it ends at {end}")
            end = entry.offset + entry.bytes + -entry.bytes % _PAGE
        if end != self._end:
            self._fail(f"values end at byte {end}, the index begins at {self._end}")

    def check(self, config: ModelConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """BadCheckpoint unless this is what a model of `config` stores."""
        for name, mine, other in differences(self.config, config):
            self._fail(f"made for {name} {mine!r}, config.json says {other!r}")
        for name, shape in shapes.items():
            if name not in self.entries:
                self._fail(f"{name} is missing (expected shape {list(shape)})")
            entry = self.entries[name]
            if entry.shape != shape or (entry.format is None) != (len(shape) == 1):
                self._fail(f"{name} has shape {list(entry.shape)}, the config calls for {list(shape)}")
        if stray := self.entries.keys() - shapes.keys():
            self._fail(f"{min(stray)} is not part of this model")

    def part(self, name: str, split: Split) -> Weight | Tensor:
        """One rank's part of a value in memory of its own; the whole is read on the way, for its checksum."""
        ranges = split.ranges(name, self.entries[name].shape)
        if tuple(len(own) for own in ranges) == self.entries[name].shape:
            return self.read(name)
        whole = self.read(name)
        assert isinstance(whole, Weight)  # nobody has a part of a vector
        try:
            part = whole.part(ranges)
        except ValueError as error:
            raise Unsupported(
                f"{self.path}: {name} in {whole.format.name}: {error}; take fewer ranks, or another format"
            ) from None
        home = empty_bytes(part.data.numel()).view(part.data.shape)
        return Weight(part.format, part.shape, home.copy_(part.data))

    def read(self, name: str) -> Weight | Tensor:
        """One value, its checksum compared."""
        entry = self.entries[name]
        data = self.mapped[entry.offset : entry.offset + entry.bytes]
        found = checksum(data)
        if found != entry.checksum:
            self._fail(
                f"{name} is damaged: its checksum is {found:016x}, the index says {entry.checksum:016x}"
            )
        if entry.format is None:
            return data.view(torch.float32)
        stack = entry.shape[:-2]
        return Weight(_BY_CODE[entry.format], entry.shape, data.view(*stack, -1) if stack else data)

    def _fail(self, what: str) -> NoReturn:
        raise BadCheckpoint(f"{self.path}: {what}; convert the model again")


def quantisation_config(weights: str) -> dict[str, Any]:
    """The entry in config.json by which a folder is known to be packed."""
    return {"quant_method": PACKED, "version": VERSION, "weights": weights}


def grain(folder: Path) -> int:
    """At multiples of what the widths of feed-forwards can be cut: rows and columns that lie together."""
    with ExitStack() as stack:
        entries = PackedFile(folder, stack).entries
    codes = (entry.format for name, entry in entries.items() if name.endswith(".down_proj"))
    return max((_BY_CODE[code].unit for code in codes if code is not None), default=ROWS)


def load(
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    progress: bool = False,
    team: Team | None = None,
    settles: bool = True,
) -> Transformer:
    """Opens a packed folder: weights as they lie, or written out as plain parameters in `dtype`.

    They lie in the mapped file, and with `settles` move into memory of our own (`memory.settle`).

    Of a `team` every rank keeps its own part; Unsupported where rows or columns lie together there. Memory at the peak
    is the weights (and one of them when cut or written out). Raises BadCheckpoint or Unsupported naming file and value.
    """
    check_dtype(dtype)
    config = ModelConfig.from_folder(folder)
    version = quantisation(config).get("version")
    if version != VERSION:
        raise Unsupported(
            f"{folder}: packed in version {version!r}; this version reads {VERSION}: convert again"
        )
    shapes = without_quantisation(config)
    model = meta_model(shapes, team)
    with ExitStack() as stack:
        file = PackedFile(folder, stack)
        file.check(config, stored_shapes(meta_model(shapes)))
        total = sum(entry.bytes for entry in file.entries.values())
        with tqdm(
            total=total, desc="loading", unit="B", unit_scale=True, disable=None if progress else True
        ) as bar:
            for name, entry in file.entries.items():
                stem, _, last = name.rpartition(".")
                value = file.part(name, model.team.split)
                if dtype is None:
                    put(model.get_submodule(stem), last, value)
                else:
                    _write_out(model.get_submodule(stem), last, value, dtype)
                bar.update(entry.bytes)
        if team is None and dtype is None and settles:
            settle(file.mapped)
    return model.eval().requires_grad_(False)


def _write_out(module: nn.Module, name: str, value: Weight | Tensor, dtype: torch.dtype) -> None:
    """A stored value as a plain parameter, in its old place; `kv_b_proj` once its parts are there."""
    if isinstance(module, LatentAttention) and name in ("key_up", "key_absorb", "value_up"):
        setattr(module, name, value)
        _write_out_up_projection(module, dtype)
        return
    wide = unpack(value) if isinstance(value, Weight) else value
    module.register_parameter(name, nn.Parameter(wide.to(dtype), requires_grad=False))


def _write_out_up_projection(attention: LatentAttention, dtype: torch.dtype) -> None:
    key, turned, value = attention.key_up, attention.key_absorb, attention.value_up
    if key is None or turned is None or value is None:
        return
    up_OC = torch.cat((unpack(key), unpack(value)), 1).flatten(0, 1).to(dtype)
    attention.key_up = attention.key_absorb = attention.value_up = None
    attention.register_parameter("kv_b_proj", nn.Parameter(up_OC, requires_grad=False))


def weight_bytes(folder: Path, part: str = "") -> int:
    """What the weights of a packed folder take, those whose names hold `part`."""
    with ExitStack() as stack:
        entries = PackedFile(folder, stack).entries
        return sum(entry.bytes for name, entry in entries.items() if part in name)


def expert_bytes(folder: Path) -> int:
    """The same of the routed experts."""
    return weight_bytes(folder, ".experts.")
