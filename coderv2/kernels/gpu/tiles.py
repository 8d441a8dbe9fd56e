"""How a kernel cuts its work: tile sizes measured for this GPU where there is a table, else sizes that fit any.

A tile's memory counts most: cards made for desks have 99 KiB of shared memory for a block, data-centre ones 163 to
227 KiB. `coderv2 bench --tune` (`tuning`) measures and writes `tuned/<name of the GPU>.json`. A product is looked up by
who multiplies it ("linear"; "pairs" and "experts", which are a layer's experts at few tokens and at many), the kind of
its weight, its rows and its shape.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

import torch

from coderv2.kernels.scaled import BLOCK, GROUP

TABLES = Path(__file__).parent / "tuned"
SMALL_MEMORY = 99 << 10
"""Bytes of shared memory that a block has on every supported card (compute capability 8.6 and 8.9)."""
INTERPRETED = 8
"""Programs that fill the machine under Triton's interpreter, which has no machine: small, so that tests see splits."""


@dataclass(frozen=True)
class Tile:
    """One program's part: rows of activations, columns of the output, and the depth of one step along the sum."""

    rows: int
    outs: int
    depth: int
    warps: int = 4
    stages: int = 2

    def bytes(self, itemsize: int) -> int:
        """Shared memory that its steps in flight take: a tile of activations and one of weights each."""
        return self.stages * itemsize * self.depth * (self.rows + self.outs)


@dataclass(frozen=True)
class Card:
    """What the choice of tiles asks of a GPU."""

    name: str
    processors: int
    shared: int
    """Bytes of shared memory for one block."""


@cache
def card(device: torch.device) -> Card:
    """The GPU that `device` is; for the CPU, a stand-in for the interpreter's tests."""
    if device.type != "cuda":
        return Card("interpreter", INTERPRETED, SMALL_MEMORY)
    properties = torch.cuda.get_device_properties(device)
    shared = getattr(properties, "shared_memory_per_block_optin", SMALL_MEMORY)
    return Card(properties.name, properties.multi_processor_count, shared)


def table_path(name: str) -> Path:
    """Where the tuned tiles of a GPU lie."""
    return TABLES / f"{re.sub(r'[^A-Za-z0-9]+', '_', name).strip('_')}.json"


@dataclass
class Table:
    """What was measured on one kind of GPU."""

    gpu: str
    tiles: dict[str, Tile] = field(default_factory=dict)
    microseconds: dict[str, float] = field(default_factory=dict)
    """Of the launch with each of those tiles."""
    refused: dict[str, str] = field(default_factory=dict)
    """Tiles that did not run, by key and tile, and why: they are not tried again."""

    @classmethod
    def read(cls, name: str) -> "Table":
        """The one in the package; empty where nothing was measured."""
        path = table_path(name)
        if not path.exists():
            return cls(name)
        kept = json.loads(path.read_text("utf-8"))
        return cls(**kept | {"tiles": {key: Tile(**tile) for key, tile in kept["tiles"].items()}})

    def write(self) -> Path:
        """Keeps it, whole or not at all; the path written."""
        TABLES.mkdir(exist_ok=True)
        path = table_path(self.gpu)
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n", "utf-8")
        beside.replace(path)
        _table.cache_clear()
        _measured.cache_clear()
        return path


@cache
def _table(name: str) -> Table:
    return Table.read(name)


def key(op: str, kind: str, rows: int, O: int, I: int) -> str:
    """What a table is looked up by; rows count in powers of two."""
    return f"{op} {kind} {O}x{I} rows {bucket(rows)}"


def bucket(rows: int) -> int:
    """The power of two that covers `rows`."""
    return 1 << max(rows - 1, 0).bit_length()


def tile(op: str, kind: str, rows: int, O: int, I: int, device: torch.device, itemsize: int = 2) -> Tile:
    """For a product of `rows` rows with a weight [O, I] of a `kind`: plain, fp8, fp8_wide or int4.

    `itemsize` is the activations'; tables are made for bfloat16, and their tiles may be too large for float32.
    """
    here = card(device)
    if itemsize <= 2:
        forced = _FORCED.get(key(op, kind, rows, O, I)) if _FORCED else None
        if found := forced or _measured(here.name, op, kind, bucket(rows), O, I):
            return found
    return fitting(DEFAULTS, rows, kind, here.shared, itemsize)


@cache
def _measured(gpu: str, op: str, kind: str, rows: int, O: int, I: int) -> Tile | None:
    """The table's for the nearest number of rows, the smaller of two that are as near; none for a far one."""
    known = _table(gpu).tiles
    near = (rows, rows // 2, rows * 2, rows // 4, rows * 4)
    return next((known[name] for name in (key(op, kind, r, O, I) for r in near) if name in known), None)


_FORCED: dict[str, Tile] = {}


@contextmanager
def forced(chosen: dict[str, Tile]) -> Iterator[None]:
    """While tiles are tried."""
    _FORCED.update(chosen)
    try:
        yield
    finally:
        _FORCED.clear()


DEFAULTS = (
    Tile(16, 32, 128, warps=4, stages=4),
    Tile(16, 64, 64, warps=4, stages=4),
    Tile(32, 64, 64, warps=4, stages=3),
    Tile(64, 64, 64, warps=4, stages=3),
    Tile(128, 64, 64, warps=8, stages=3),
    Tile(128, 128, 64, warps=8, stages=3),
    Tile(64, 64, 64, warps=4, stages=2),
)
"""Unmeasured, from few rows to many; the last fits everywhere."""


_THROUGH_REGISTERS = ("int4", "fp8_wide")
"""Kinds whose codes take registers on their way to numbers: the widest tile spills."""
WIDEST = 128 * 64

DEPTHS = {"plain": (64, 128), "fp8": (BLOCK,), "fp8_wide": (BLOCK,), "int4": (GROUP,)}
"""Of a step: where there are scales, they hold for as many columns, or a multiple of them."""


DEPTH_OF_FLOAT32 = 16
"""Float32 is multiplied without matrix units: a thread holds its rows and columns of the whole step in registers."""


def fitting(tiles: tuple[Tile, ...], rows: int, kind: str, shared: int, itemsize: int = 2) -> Tile:
    """The largest tile that `rows` fill and that `shared` bytes hold, its registers too."""
    itemsize = 1 if kind == "fp8" else itemsize
    depths = DEPTHS[kind] if itemsize <= 2 else (DEPTH_OF_FLOAT32,)
    deep = [t if t.depth in depths else replace(t, depth=depths[0], stages=2) for t in tiles]
    able = [t for t in deep if t.bytes(itemsize) <= shared]
    if kind in _THROUGH_REGISTERS:
        able = [t for t in able if t.rows * t.outs <= WIDEST]
    filled = [t for t in able if t.rows <= max(bucket(rows), 16)]
    return max(filled, key=lambda t: (t.rows, t.outs))
