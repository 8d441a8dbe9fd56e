"""A layer's experts in three launches: gate and up with SiLU, down, and the weighted sum; the shared ones among them.

A *pair* is a token and one of its K + S experts, S shared ones last. With few tokens every pair reads its expert's
weights by itself: at one token this is what there is to read. With many, pairs are sorted by expert and padded to whole
tiles (`sorting`), so that a weight is read once for each tile of tokens. Nothing depends on data on the host's side, so
a CUDA graph can hold it. An expert below 0 is another machine's and adds nothing here.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from coderv2.kernels import reference
from coderv2.kernels.gpu import pairs, tiles
from coderv2.kernels.gpu.linear import KINDS, Pairs, codes, operand, scale_stride, scales_of
from coderv2.kernels.gpu.sorting import sort_pairs
from coderv2.kernels.scaled import Scaled

Matrix = Tensor | Scaled
Stack = tuple[Matrix, Matrix, Matrix]
"""Gate [E, F, D], up [E, F, D] and down [E, D, F]; of the shared network without E."""
FEW = 8
"""Tokens up to which pairs are not sorted: with so many, most of their experts differ."""


def mixture(x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, routed: Stack, shared: Stack) -> Tensor:
    """A token's routed experts, weighted, plus the shared network, shape [T, D].

    Both are plain, or both of one kind with one span of scales: `joins` says.
    """
    plan = Plan.of(x_TD, experts_TK, routed, shared)
    return _weighted(_pairs(x_TD, experts_TK, plan), weights_TK, experts_TK, plan)


def experts(
    x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, gate: Matrix, up: Matrix, down: Matrix
) -> Tensor:
    """The routed experts alone, shape [T, D]."""
    plan = Plan.of(x_TD, experts_TK, (gate, up, down), None)
    return _weighted(_pairs(x_TD, experts_TK, plan), weights_TK, experts_TK, plan)


def swiglu(x_TD: Tensor, gate: Matrix, up: Matrix, down: Matrix) -> Tensor:
    """One network for all tokens, shape [T, D]: a stack of one expert, but many rows of plain numbers are cuBLAS's."""
    if isinstance(gate, Tensor) and x_TD.shape[0] > FEW:
        plain: Any = (gate, up, down)
        return reference.swiglu(x_TD, *plain)
    one = x_TD.new_ones(x_TD.shape[0], 1, dtype=torch.float32)
    return experts(
        x_TD, one, torch.zeros_like(one, dtype=torch.long), *(_stack_of_one(m) for m in (gate, up, down))
    )


def joins(routed: Stack, shared: Stack) -> bool:
    """True where one call can compute both: of one kind, and the shared network comes in whole slices.

    They are of one width, and none cuts a block of scales.
    """
    alike = all(_likeness(a) == _likeness(b) for a, b in zip(routed, shared, strict=True))
    F, width = routed[0].shape[1], shared[0].shape[0]
    slices, columns = triton.cdiv(width, F), 1 if isinstance(routed[2], Tensor) else routed[2].span[1]
    return alike and bool(slices == 1 or width % (slices * columns) == 0)


def _likeness(matrix: Matrix) -> object:
    # Fixed scales by identity: what they are only the device knows.
    return matrix.dtype if isinstance(matrix, Tensor) else (matrix.kind, matrix.span, id(matrix.input_scale))


def _stack_of_one(matrix: Matrix) -> Matrix:
    if isinstance(matrix, Tensor):
        return matrix[None]
    return Scaled(matrix.kind, matrix.codes[None], matrix.scales[None], matrix.span, matrix.input_scale)


@dataclass(frozen=True)
class Plan:
    """Sizes of one call, and who is computed."""

    T: int
    K: int
    E: int
    D: int
    F: int
    S: int
    """Shared experts: the shared network in slices no wider than an expert."""
    FS: int
    """Width of each slice."""
    routed: Stack
    shared: Stack
    """The routed ones again where there is none: never read."""

    @classmethod
    def of(cls, x_TD: Tensor, experts_TK: Tensor, routed: Stack, shared: Stack | None) -> "Plan":
        """Of these tokens, choices and weights."""
        (T, D), (E, F) = x_TD.shape, routed[0].shape[:2]
        width = 0 if shared is None else shared[0].shape[0]
        S = triton.cdiv(width, F)
        return cls(T, experts_TK.shape[1], E, D, F, S, width // S if S else 0, routed, shared or routed)

    @property
    def pairs(self) -> int:
        """Rows of what the launches write."""
        return self.T * (self.K + self.S)

    @property
    def few(self) -> bool:
        """True where every pair reads its expert's weights by itself."""
        return self.T <= FEW

    @property
    def op(self) -> str:
        """By which name tiles are looked up: those of single pairs have no rows, and are others than sorted ones."""
        return "pairs" if self.few else "experts"

    @property
    def rows(self) -> int:
        """By which number tiles are looked up: tokens, or tokens of an expert in the mean."""
        return self.T if self.few else max(self.T * self.K // self.E, 1)

    @property
    def kind(self) -> str:
        """Of the weights."""
        gate = self.routed[0]
        return "plain" if isinstance(gate, Tensor) else gate.kind


def _pairs(x_TD: Tensor, experts_TK: Tensor, plan: Plan) -> Tensor:
    """What each pair's expert makes of its token, [T · (K + S), D]; undefined for experts of others."""
    return down(hidden(x_TD, experts_TK, plan), experts_TK, plan)


def hidden(x_TD: Tensor, experts_TK: Tensor, plan: Plan) -> Tensor:
    """The first launch: SiLU of gate times up, for every pair [P, F]."""
    hidden_PF = x_TD.new_empty(plan.pairs, max(plan.F, plan.FS))
    _multiply(x_TD, hidden_PF, experts_TK, plan, plan.routed[:2], plan.shared[:2], gated=True)
    return hidden_PF


def down(hidden_PF: Tensor, experts_TK: Tensor, plan: Plan) -> Tensor:
    """The second launch, [P, D]."""
    out_PD = hidden_PF.new_empty(plan.pairs, plan.D)
    routed, shared = plan.routed[2], plan.shared[2]
    _multiply(hidden_PF, out_PD, experts_TK, plan, (routed, routed), (shared, shared), gated=False)
    return out_PD


def _multiply(
    x: Tensor,
    out: Tensor,
    experts_TK: Tensor,
    plan: Plan,
    routed: tuple[Matrix, Matrix],
    shared: tuple[Matrix, Matrix],
    *,
    gated: bool,
) -> None:
    """Every pair's row of `out`: the product with one matrix, or SiLU of the first times the second."""
    experts_TK = experts_TK.contiguous()
    # What the first products leave out must not reach scales: it is whatever the memory held.
    rounded = None if gated else Pairs(experts_TK, plan.S, plan.FS)
    rows, row_scales = operand(x, routed[0], rounded)
    O, I = routed[0].shape[-2:]
    tile = tiles.tile(plan.op, plan.kind, plan.rows, O, I, x.device, x.element_size())
    span = (1, 1) if isinstance(routed[0], Tensor) else routed[0].span
    weights = [part for pair in (routed, shared) for matrix in pair for part in _parts(matrix)]
    sizes = (
        *_strides(routed[0]),
        *_strides(shared[0])[1::2],
        row_scales.shape[-1],
        O,
        plan.FS,
        x.shape[1],
        out.shape[1],
    )
    if plan.few:
        (order, owners), programs, BT = (
            (experts_TK, experts_TK),
            plan.pairs,
            1,
        )  # no tiles, so nothing is read there
    else:
        order, owners = sort_pairs(experts_TK, plan.E, plan.S, tile.rows)
        programs, BT = owners.shape[0], tile.rows
    # Two matrices, each half as wide: together they take the memory and the registers of one.
    outs = tile.outs // 2 if gated else tile.outs
    pairs.multiply[(triton.cdiv(out.shape[1], outs), programs)](
        rows, row_scales, experts_TK, order, owners, out, *weights, *sizes, I, plan.E,
        K=plan.K, S=plan.S, GATED=gated, KIND=KINDS[plan.kind], ROWS=span[0], COLUMNS=span[1],
        BT=BT, BO=outs, BI=tile.depth, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def _parts(matrix: Matrix) -> tuple[Tensor, Tensor]:
    return (matrix, matrix) if isinstance(matrix, Tensor) else (codes(matrix), scales_of(matrix))


def _strides(matrix: Matrix) -> tuple[int, int, int, int]:
    """From one expert to the next and from row to row: of codes, then of scales."""
    numbers, scales = _parts(matrix)
    stacked = numbers.dim() == 3
    return (
        numbers.stride(0) if stacked else 0,
        numbers.stride(-2),
        scales.stride(0) if stacked else 0,
        scale_stride(matrix),
    )


def _weighted(out_PD: Tensor, weights_TK: Tensor, experts_TK: Tensor, plan: Plan) -> Tensor:
    """Each token's pairs added up in float32, in the order of its ranking, shared ones last, [T, D]."""
    out_TD = out_PD.new_empty(plan.T, plan.D)
    BD = min(triton.next_power_of_2(plan.D), 1024)
    pairs.add[(plan.T, triton.cdiv(plan.D, BD))](
        out_PD,
        weights_TK.float().contiguous(),
        experts_TK.contiguous(),
        out_TD,
        plan.D,
        K=plan.K,
        S=plan.S,
        BD=BD,
    )
    return out_TD
