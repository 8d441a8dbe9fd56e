"""The experts' kernels: a product for every pair of token and expert, one pair or one tile of pairs to a program.

With `GATED` a program makes SiLU of one product times another, from rows of tokens; without, one product from rows of
pairs. `a` and `b` are the routed experts' stacks, `sa` and `sb` the shared network, of which every shared expert is a
slice; all have the same kind of numbers.
"""

import triton
import triton.language as tl

from coderv2.kernels.gpu.linear import accumulate, row_scale, scaled, weight_tile


@triton.jit
def _part(k, K, FS, O, I, GATED: tl.constexpr):
    """Of a pair's k-th expert: its first row, how many, and its columns; a shared one is a slice of a network."""
    before = tl.maximum(k - K, 0) * FS
    if GATED:
        return before, tl.where(k >= K, FS, O), before * 0, before * 0 + I
    return before * 0, before * 0 + O, before, tl.where(k >= K, before + FS, before * 0 + I)


@triton.jit
def _weights(
    routed, expert, a, a_scales, b, b_scales, sa, sa_scales, sb, sb_scales,
    stack, stride, scale_stack, scale_stride, shared_stride, shared_scale_stride,
):  # fmt: skip
    """Both matrices of an expert with their scales, from its stack or of the shared network, and the strides there."""
    if routed:
        a, a_scales = a + expert * stack, a_scales + expert * scale_stack
        b, b_scales = b + expert * stack, b_scales + expert * scale_stack
    else:
        a, a_scales, b, b_scales = sa, sa_scales, sb, sb_scales
    stride = tl.where(routed, stride, shared_stride)
    return a, a_scales, b, b_scales, stride, tl.where(routed, scale_stride, shared_scale_stride)


@triton.jit
def _silu(x):
    return x / (1 + tl.exp(-x))


@triton.jit
def _row_step(
    total, values, x_scale, codes, stride, scales, scale_stride, o, live_o, first, end,
    KIND: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    w = weight_tile(codes, stride, o, live_o, first, end, tl.float32, KIND, BI).to(tl.float32)
    part = tl.sum(values[:, None] * w, 0)
    return total + scaled(
        part, tl.sum(values, 0), x_scale, scales, scale_stride, o, live_o, first, KIND, ROWS, COLUMNS
    )


@triton.jit
def pair_by_pair(
    x, x_scales, experts, out, a, a_scales, b, b_scales, sa, sa_scales, sb, sb_scales,
    stack, stride, scale_stack, scale_stride, shared_stride, shared_scale_stride, G, O, FS, x_stride, out_stride, I,
    K: tl.constexpr, S: tl.constexpr, GATED: tl.constexpr, KIND: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, BO: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(1).to(tl.int64)
    t, k = pair // (K + S), pair % (K + S)
    row = t if GATED else pair
    # A shared one has no number: whatever is loaded for it is not used.
    expert = tl.load(experts + t * K + tl.minimum(k, K - 1)).to(tl.int64)
    if (k < K) & (expert < 0):
        return
    a, a_scales, b, b_scales, stride, scale_stride = _weights(
        k < K, expert, a, a_scales, b, b_scales, sa, sa_scales, sb, sb_scales,
        stack, stride, scale_stack, scale_stride, shared_stride, shared_scale_stride,
    )  # fmt: skip
    begin_o, count, begin, end = _part(k, K, FS, O, I, GATED)
    column = tl.program_id(0) * BO + tl.arange(0, BO)
    o, live_o = begin_o + column, column < count
    total, other = tl.zeros((BO,), tl.float32), tl.zeros((BO,), tl.float32)
    for first in range(begin, end, BI):
        i = first - begin + tl.arange(0, BI)
        values = tl.load(x + row * x_stride + i, mask=i < end - begin, other=0.0).to(tl.float32)
        x_scale = row_scale(x_scales, G, row, row >= 0, first - begin, KIND)
        total = _row_step(
            total, values, x_scale, a, stride, a_scales, scale_stride, o, live_o, first, end,
            KIND, ROWS, COLUMNS, BI,
        )  # fmt: skip
        if GATED:
            other = _row_step(
                other, values, x_scale, b, stride, b_scales, scale_stride, o, live_o, first, end,
                KIND, ROWS, COLUMNS, BI,
            )  # fmt: skip
    result = _silu(total) * other if GATED else total
    tl.store(out + pair * out_stride + column, result.to(out.dtype.element_ty), mask=column < out_stride)


@triton.jit
def tile_by_tile(
    x, x_scales, order, owners, out, a, a_scales, b, b_scales, sa, sa_scales, sb, sb_scales,
    stack, stride, scale_stack, scale_stride, shared_stride, shared_scale_stride, G, O, FS, x_stride, out_stride, I, E,
    K: tl.constexpr, S: tl.constexpr, GATED: tl.constexpr, KIND: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, BT: tl.constexpr, BO: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    expert = tl.load(owners + tl.program_id(1)).to(tl.int64)
    if expert < 0:
        return
    k = tl.maximum(expert - E, -1) + K
    a, a_scales, b, b_scales, stride, scale_stride = _weights(
        k < K, expert, a, a_scales, b, b_scales, sa, sa_scales, sb, sb_scales,
        stack, stride, scale_stack, scale_stride, shared_stride, shared_scale_stride,
    )  # fmt: skip
    begin_o, count, begin, end = _part(k, K, FS, O, I, GATED)
    pair = tl.load(order + tl.program_id(1) * BT + tl.arange(0, BT)).to(tl.int64)
    live_t, row = pair >= 0, pair // (K + S) if GATED else pair
    column = tl.program_id(0) * BO + tl.arange(0, BO)
    o, live_o = begin_o + column, column < count
    total, other = tl.zeros((BT, BO), tl.float32), tl.zeros((BT, BO), tl.float32)
    for first in range(begin, end, BI):
        i = first - begin + tl.arange(0, BI)
        live = live_t[:, None] & (i < end - begin)[None, :]
        rows = tl.load(x + row[:, None] * x_stride + i[None, :], mask=live, other=0.0)
        x_scale = row_scale(x_scales, G, row, live_t, first - begin, KIND)
        total = accumulate(
            total, rows, x_scale, a, stride, a_scales, scale_stride, o, live_o, first, end,
            KIND, ROWS, COLUMNS, BI,
        )  # fmt: skip
        if GATED:
            other = accumulate(
                other, rows, x_scale, b, stride, b_scales, scale_stride, o, live_o, first, end,
                KIND, ROWS, COLUMNS, BI,
            )  # fmt: skip
    result = _silu(total) * other if GATED else total
    live = live_t[:, None] & (column < out_stride)[None, :]
    tl.store(out + pair[:, None] * out_stride + column[None, :], result.to(out.dtype.element_ty), mask=live)


@triton.jit
def add(pairs, weights, experts, out, D, K: tl.constexpr, S: tl.constexpr, BD: tl.constexpr):
    t = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    total = tl.zeros((BD,), tl.float32)
    for k in tl.static_range(K):
        here = (tl.load(experts + t * K + k) >= 0) & (d < D)
        weight = tl.load(weights + t * K + k)
        total += weight * tl.load(pairs + (t * (K + S) + k) * D + d, mask=here, other=0.0).to(tl.float32)
    for s in tl.static_range(S):
        total += tl.load(pairs + (t * (K + S) + K + s) * D + d, mask=d < D, other=0.0).to(tl.float32)
    tl.store(out + t * D + d, total.to(out.dtype.element_ty), mask=d < D)
