"""What tuning tries: the launches of a model's layers, and the tiles that may be best for each."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from typing import cast

import torch
from torch import Tensor

from coderv2.kernels.gpu import experts, tiles
from coderv2.kernels.gpu.linear import linear
from coderv2.kernels.gpu.timing import Calls, copies
from coderv2.kernels.scaled import BLOCK, FP8, GROUP, Scaled

CHOICES = 16
"""Choices of experts that take turns: with a few tokens one alone leaves most of a layer's weights unread."""


@dataclass(frozen=True)
class Layer:
    """The widths of a model that products have."""

    D: int
    F: int
    """Of an expert."""
    E: int
    K: int
    S: int
    """Shared experts."""
    dense: int
    """Width of a layer's feed-forward without experts."""
    plain: tuple[tuple[int, int], ...]
    """Shapes [O, I] of single matrices that are rounded."""


def kinds(capability: tuple[int, int]) -> tuple[str, ...]:
    """Of weights, that a GPU of this compute capability multiplies."""
    return ("plain", "fp8", "int4") if capability >= (8, 9) else ("plain", "int4")


LITE = Layer(2048, 1408, 64, 6, 2, 10944, ((3072, 2048), (2048, 2048), (576, 2048)))


@dataclass(frozen=True)
class Linear:
    """A product with one matrix."""

    kind: str
    T: int
    O: int
    I: int

    op = "linear"

    @property
    def key(self) -> str:
        """Its place in the table."""
        return tiles.key(self.op, self.kind, self.T, self.O, self.I)

    @property
    def rows(self) -> int:
        """That tiles are filled with."""
        return self.T

    def calls(self, device: torch.device) -> Calls:
        """It, with other numbers each."""
        first = _matrix(self.kind, (), self.O, self.I, device)
        x_TD = _numbers(self.T, self.I, device=device)
        others = (_matrix(self.kind, (), self.O, self.I, device) for _ in range(copies(first.nbytes) - 1))
        return [partial(linear, x_TD, weight) for weight in (first, *others)]


@dataclass(frozen=True)
class Experts:
    """One of the two launches of a layer's experts; a dense feed-forward is the only expert of its layer."""

    kind: str
    T: int
    D: int
    F: int
    E: int
    K: int
    S: int
    gated: bool

    @property
    def _plan(self) -> experts.Plan:
        return self._plans(torch.device("meta"), 1)[0]

    @property
    def op(self) -> str:
        """Who looks tiles up."""
        return self._plan.op

    @property
    def rows(self) -> int:
        """That tiles are filled with."""
        return self._plan.rows

    @property
    def key(self) -> str:
        """Its place in the table."""
        shape = (self.F, self.D) if self.gated else (self.D, self.F)
        return tiles.key(self.op, self.kind, self.rows, *shape)

    def calls(self, device: torch.device) -> Calls:
        """It, with other experts or other weights each."""
        gate, up, down = self._stack(device)
        plans = self._plans(device, copies(gate.nbytes + up.nbytes if self.gated else down.nbytes))
        chosen = [torch.rand(self.T, self.E, device=device).topk(self.K)[1] for _ in range(CHOICES)]
        launch = experts.hidden if self.gated else experts.down
        rows = self.T if self.gated else plans[0].pairs
        x = _numbers(rows, self.D if self.gated else self.F, device=device)
        number = max(len(plans), CHOICES if self._plan.few and self.E > 1 else 1)
        return [partial(launch, x, chosen[i % CHOICES], plans[i % len(plans)]) for i in range(number)]

    def _plans(self, device: torch.device, number: int) -> list[experts.Plan]:
        x_TD, ids_TK = (torch.empty(self.T, width, device="meta") for width in (self.D, self.K))
        shared = _feed_forward(self.kind, (), self.D, self.F * self.S, device) if self.S else None
        return [experts.Plan.of(x_TD, ids_TK, self._stack(device, i), shared) for i in range(number)]

    def _stack(self, device: torch.device, copy: int = 0) -> experts.Stack:
        return _feed_forward(self.kind, (self.E,), self.D, self.F, device, copy)


Case = Linear | Experts


def cases(layer: Layer, kinds: tuple[str, ...]) -> Iterator[Case]:
    """Most useful first: a layer's experts, then single matrices, then the dense layer; bfloat16 before fp8 and int4.

    Every number of tokens up to 8,192 is at most two doublings from one that is tried.
    """
    for kind in kinds:
        for T, gated in product((1, 8, 64, 16, 256, 1024, 4096), (True, False)):
            yield Experts(kind, T, layer.D, layer.F, layer.E, layer.K, layer.S, gated)
    for kind in kinds:
        if kind != "plain":  # those are cuBLAS's
            for T, (O, I) in product((1, 16, 128, 2048), layer.plain):
                yield Linear(kind, T, O, I)
    for kind in kinds:
        for T, gated in product((1, 8) if kind == "plain" else (1, 8, 64, 2048), (True, False)):
            yield Experts(kind, T, layer.D, layer.dense, 1, 1, 0, gated)


def candidates(op: str, kind: str, rows: int, shared: int) -> list[tiles.Tile]:
    """Tiles that may be best and that `shared` bytes hold; no two of them are one kernel."""
    return list(_of_pairs(kind) if op == "pairs" else _of_tiles(kind, rows, shared))


def _of_pairs(kind: str) -> Iterator[tiles.Tile]:
    """A single row goes through registers: 32 to 64 weights of a thread are enough to have in flight, more spill."""
    depths = {"plain": (64, 128, 256)}.get(kind, tiles.DEPTHS[kind])
    for outs, depth, warps in product((32, 64, 128), depths, (4, 8)):
        if 32 <= outs * depth // (32 * warps) <= 64:
            yield tiles.Tile(1, outs, depth, warps, 2)  # nothing is staged without matrix units


def _of_tiles(kind: str, rows: int, shared: int) -> Iterator[tiles.Tile]:
    """Rows that are filled, or filled twice: larger tiles are empty, smaller ones read weights more often."""
    itemsize = 1 if kind == "fp8" else 2
    full = min(max(tiles.bucket(rows), 16), 128)
    for height in sorted({max(full // 2, 16), full}):
        narrow = height == 16  # what counts is reading weights
        depths = tiles.DEPTHS[kind] if narrow else tiles.DEPTHS[kind][:1]
        for outs, depth in product((32, 64, 128) if narrow else (64, 128), depths):
            if kind == "int4" and height * outs > tiles.WIDEST:
                continue
            for warps in _warps(height * outs):
                able = (tiles.Tile(height, outs, depth, warps, stages) for stages in (4, 3, 2))
                yield from [tile for tile in able if tile.bytes(itemsize) <= shared][:2]


def _warps(size: int) -> tuple[int, ...]:
    """Of a tile with so many sums: 32 to 64 of a thread."""
    return (4,) if size <= 64 * 64 else (4, 8) if size < 128 * 128 else (8,)


def _numbers(*shape: int, device: torch.device) -> Tensor:
    return filled(torch.empty(*shape, dtype=torch.bfloat16, device=device))


def _matrix(kind: str, stack: tuple[int, ...], O: int, I: int, device: torch.device) -> Tensor | Scaled:
    """Weights [O, I], or a stack of them, made where they lie."""
    if kind == "plain":
        return filled(torch.empty(*stack, O, I, dtype=torch.bfloat16, device=device))
    if kind == "int4":
        codes = torch.empty(*stack, O, I // 2, dtype=torch.uint8, device=device)
        scales = torch.empty(*stack, O, I // GROUP, 2, dtype=torch.half, device=device)
        return Scaled("int4", filled(codes), filled(scales), (1, GROUP))
    codes = torch.empty(*stack, O, I, dtype=FP8, device=device)
    scales = torch.empty(*stack, -(-O // BLOCK), -(-I // BLOCK), device=device)
    return Scaled("fp8", filled(codes), filled(scales), (BLOCK, BLOCK))


def filled(numbers: Tensor) -> Tensor:
    """With random ones, in place."""
    if numbers.dtype == FP8:
        numbers.view(torch.uint8).random_(0, 120)  # below the code that is no number
    elif numbers.dtype == torch.uint8:
        numbers.random_(0, 256)
    else:
        numbers.normal_(0, 1 / 32)
    return numbers


@lru_cache(maxsize=16)
def _feed_forward(
    kind: str, stack: tuple[int, ...], D: int, F: int, device: torch.device, copy: int = 0
) -> experts.Stack:
    """Gate, up and down; kept, since the next cases have the same."""
    shapes = ((F, D), (F, D), (D, F))
    return cast(experts.Stack, tuple(_matrix(kind, stack, *shape, device) for shape in shapes))
