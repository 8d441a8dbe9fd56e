"""Products with weights in fewer bits, `x · Wᵀ`; plain ones are cuBLAS's, which needs no help from us.

`weight_tile` and `accumulate` are one step along the sum for every kind of weight; the experts use them too.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from coderv2.kernels.gpu import tiles
from coderv2.kernels.scaled import BLOCK, LARGEST, Scaled

PLAIN, FP8, INT4, FP8_WIDE = 0, 1, 2, 3
KINDS = {"plain": PLAIN, "fp8": FP8, "int4": INT4, "fp8_wide": FP8_WIDE}
_LARGEST = tl.constexpr(LARGEST)
_PLAIN, _FP8, _INT4, _FP8_WIDE = (tl.constexpr(kind) for kind in (PLAIN, FP8, INT4, FP8_WIDE))


def linear(x_TD: Tensor, weight: Tensor | Scaled) -> Tensor:
    """`x · Wᵀ` with a weight [O, D], shape [T, O]."""
    if isinstance(weight, Tensor):
        return F.linear(x_TD, weight)
    (O, I), T = weight.shape, x_TD.shape[0]
    tile = tiles.tile("linear", weight.kind, T, O, I, x_TD.device, x_TD.element_size())
    splits = split(T, O, I, tile, x_TD.device)
    rows, row_scales = operand(x_TD, weight)
    out_TO = x_TD.new_empty(T, O)
    parts_STO = torch.empty(splits, T, O, device=x_TD.device) if splits > 1 else out_TO[None]
    _linear[(triton.cdiv(O, tile.outs), triton.cdiv(T, tile.rows), splits)](
        rows, row_scales, row_scales.shape[-1], codes(weight), scales_of(weight), parts_STO,
        T, O, I, weight.codes.stride(-2), scale_stride(weight),
        KIND=KINDS[weight.kind], ROWS=weight.span[0], COLUMNS=weight.span[1], SPLITS=splits,
        BT=tile.rows, BO=tile.outs, BI=tile.depth, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out_TO if splits == 1 else parts_STO.sum(0).to(x_TD.dtype)


def split(rows: int, O: int, I: int, tile: tiles.Tile, device: torch.device) -> int:
    """Into how many parts the sum is cut, so that few rows still fill the GPU; each part has 4 steps at least."""
    programs = triton.cdiv(O, tile.outs) * triton.cdiv(rows, tile.rows)
    most = max(triton.cdiv(I, tile.depth) // 4, 1)
    return int(min(max(tiles.card(device).processors // programs, 1), most, 8))


def scale_stride(weight: Tensor | Scaled) -> int:
    """Numbers between the scales of one row, or row of blocks, and the next."""
    if isinstance(weight, Tensor):
        return 0
    return int(scales_of(weight).stride(-2))


def scales_of(weight: Scaled) -> Tensor:
    """As the kernel reads them: of int4 both float16 of a group as one number."""
    return weight.scales.view(torch.int32)[..., 0] if weight.kind == "int4" else weight.scales


def codes(weight: Scaled) -> Tensor:
    """As the kernel reads them: fp8 of old cards, whose compilers do not know it, as bytes."""
    return weight.codes.view(torch.uint8) if weight.kind == "fp8_wide" else weight.codes


@dataclass(frozen=True)
class Pairs:
    """Rows that are a token's experts, one after another: K routed ones, then `slices` of the shared network."""

    experts_TK: Tensor
    """Negative: computed elsewhere; its row was never written."""
    slices: int
    width: int
    """Numbers of a slice's row; what follows them was never written."""

    @property
    def sizes(self) -> tuple[Tensor, int, int, int]:
        """Experts, K, rows of a token, width: as the kernel takes them."""
        K = self.experts_TK.shape[1]
        return self.experts_TK, K, K + self.slices, self.width


def operand(x_TD: Tensor, weight: Tensor | Scaled, pairs: Pairs | None = None) -> tuple[Tensor, Tensor]:
    """Activations as the kernel for `weight` reads them, and their scales: only fp8 has any."""
    x_TD = x_TD.contiguous()
    if isinstance(weight, Scaled) and weight.kind == "fp8":
        return round_rows(x_TD, weight.input_scale, pairs)
    return x_TD, x_TD.new_empty(1, 1, dtype=torch.float32)


def round_rows(
    x_TD: Tensor, input_scale: Tensor | None = None, pairs: Pairs | None = None
) -> tuple[Tensor, Tensor]:
    """Activations as e4m3 [T, D] and scales [T, G], as `scaled.round_rows`. What `pairs` left out counts as 0."""
    T, D = x_TD.shape
    rows = (x_TD, 0, 1, D) if pairs is None else pairs.sizes
    groups = triton.cdiv(D, BLOCK)
    codes_TD = torch.empty(T, D, dtype=torch.float8_e4m3fn, device=x_TD.device)
    scales_TG = torch.empty(T, groups if input_scale is None else 1, device=x_TD.device)
    _round_rows[(T, groups)](
        x_TD, codes_TD, scales_TG, scales_TG if input_scale is None else input_scale, D, scales_TG.shape[1],
        *rows, FIXED=input_scale is not None, PAIRS=pairs is not None, BI=BLOCK, num_warps=1,
    )  # fmt: skip
    return codes_TD, scales_TG


@triton.jit
def _round_rows(
    x, codes, scales, fixed, D, G, experts, K, rows, width,
    FIXED: tl.constexpr, PAIRS: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    t, g = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i = g * BI + tl.arange(0, BI)
    live = i < D
    if PAIRS:
        k = t % rows
        expert = tl.load(experts + t // rows * K + k, mask=k < K, other=0)
        live &= (expert >= 0) & ((k < K) | (i < width))
    values = tl.load(x + t * D + i, mask=live, other=0.0).to(tl.float32)
    if FIXED:
        scale = tl.load(fixed)
        values = tl.minimum(tl.maximum(values / scale, -_LARGEST), _LARGEST)
        if g == 0:
            tl.store(scales + t, scale)
    else:
        scale = tl.maximum(tl.max(tl.abs(values), 0), 1e-12) / _LARGEST
        values = values / scale
        tl.store(scales + t * G + g, scale)
    tl.store(codes + t * D + i, values.to(tl.float8e4nv), mask=i < D)


@triton.jit
def weight_tile(
    codes, stride, o, live_o, first, end, dtype: tl.constexpr, KIND: tl.constexpr, BI: tl.constexpr
):
    """Columns from `first` on of the rows `o`, as the right side of a product, [BI, BO]; zero from `end` on."""
    if KIND == _INT4:
        pair = first // 2 + tl.arange(0, BI // 2)
        live = live_o[:, None] & (pair < end // 2)[None, :]
        pairs = tl.load(codes + o[:, None] * stride + pair[None, :], mask=live, other=0)
        tile = tl.trans(tl.interleave(pairs & 15, pairs >> 4).to(dtype))
    else:
        i = first + tl.arange(0, BI)
        live = live_o[None, :] & (i < end)[:, None]
        tile = tl.load(codes + o[None, :] * stride + i[:, None], mask=live, other=0.0)
        if KIND == _FP8_WIDE:
            tile = _widened(tile).to(dtype)
    return tile


@triton.jit
def _widened(codes):
    """Bytes of e4m3 as 1/256 of what they mean: float16 has the same parts, and an exponent with 8 more below 0."""
    bits = (codes & 0x80).to(tl.uint16) << 8 | (codes & 0x7F).to(tl.uint16) << 7
    return bits.to(tl.float16, bitcast=True)


@triton.jit
def row_scale(scales, G, t, live_t, first, KIND: tl.constexpr):
    """What activations of rows `t` from column `first` on are to be multiplied with; 1 where they are unrounded."""
    if KIND == _FP8:
        # One for the whole row, or one for each 128 columns.
        return tl.load(scales + t * G + tl.where(G == 1, 0, first // 128), mask=live_t, other=0.0)
    return live_t.to(tl.float32)


@triton.jit
def _scale_and_least(pairs, stride, o, live_o, group):
    """Both float16 of a group of int4, loaded as one number."""
    pair = tl.load(pairs + o * stride + group, mask=live_o, other=0)
    halves = (pair & 0xFFFF).to(tl.uint16), (pair >> 16).to(tl.uint16)
    return halves[0].to(tl.float16, bitcast=True), halves[1].to(tl.float16, bitcast=True)


@triton.jit
def _scaled(
    part, row_sum, x_scale, scales, stride, block, o, live_o, first,
    KIND: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """What `part`, a product with codes, means; everything is [BT, BO], or fits it."""
    if KIND == _PLAIN:
        return part
    if KIND == _INT4:
        scale, low = _scale_and_least(scales, stride, o, live_o, first // COLUMNS)
        return part * scale[None, :] + row_sum * low[None, :]
    if KIND == _FP8_WIDE:
        part *= 256
    if ROWS == 1:
        row = tl.load(scales + o * stride + first // COLUMNS, mask=live_o, other=0.0)
        return part * x_scale * row[None, :]
    # One number for the whole tile: its rows lie in one block.
    return part * x_scale * tl.load(scales + block * stride + first // COLUMNS)


@triton.jit
def accumulate(
    total, x, x_scale, codes, stride, scales, scale_stride, block, o, live_o, first, end,
    KIND: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    """`total` [BT, BO] plus one step of the product of x [BT, BI] with the weight's columns from `first` on.

    The weight's rows are `o`; of fp8 all lie in the `block`-th of ROWS rows that share scales, unless each has its own.
    """
    part = _product(x, weight_tile(codes, stride, o, live_o, first, end, x.dtype, KIND, BI))
    row_sum = tl.sum(tl.trans(x).to(tl.float32), 0)[:, None] if KIND == _INT4 else 0.0
    return total + _scaled(
        part, row_sum, x_scale[:, None], scales, scale_stride, block, o, live_o, first,
        KIND, ROWS, COLUMNS,
    )  # fmt: skip


@triton.jit
def _product(x, w):
    """x [BT, BI] times w [BI, BO]; a single row is not worth the 16 that matrix units multiply at least."""
    if x.shape[0] == 1:
        product = tl.sum(tl.trans(x).to(tl.float32) * w.to(tl.float32), 0)[None, :]
    else:
        product = tl.dot(x, w, input_precision="ieee")
    return product


@triton.jit
def _linear(
    x, x_scales, G, codes, scales, parts, T, O, I, stride, scale_stride,
    KIND: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SPLITS: tl.constexpr,
    BT: tl.constexpr, BO: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    o = tl.program_id(0) * BO + tl.arange(0, BO)
    t = (tl.program_id(1) * BT + tl.arange(0, BT)).to(tl.int64)
    part, live_o, live_t = tl.program_id(2), o < O, t < T
    o_wide, block = o.to(tl.int64), tl.program_id(0) * BO // ROWS
    total = tl.zeros((BT, BO), tl.float32)
    for step in range(part, tl.cdiv(I, BI), SPLITS):
        first = step * BI
        i = first + tl.arange(0, BI)
        rows = tl.load(x + t[:, None] * I + i[None, :], mask=live_t[:, None] & (i < I)[None, :], other=0.0)
        total = accumulate(
            total, rows, row_scale(x_scales, G, t, live_t, first, KIND), codes, stride, scales, scale_stride,
            block, o_wide, live_o, first, I, KIND, ROWS, COLUMNS, BI,
        )  # fmt: skip
    place = parts + (part * T + t[:, None]) * O + o[None, :]
    tl.store(place, total.to(parts.dtype.element_ty), mask=live_t[:, None] & live_o[None, :])
