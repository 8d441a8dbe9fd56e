"""The experts' kernels: a product for every pair of token and expert, one pair or a tile of them to a program.

With `GATED` a program makes SiLU of one product times another, from rows of tokens; without, one product from rows of
pairs. `a` and `b` are the routed experts' stacks, `sa` and `sb` the shared network, of which every shared expert is a
slice; all have the same kind of numbers. Experts from `E` on are the shared ones.
"""

import triton
import triton.language as tl

from coderv2.kernels.gpu.linear import accumulate, row_scale


@triton.jit
def _task(experts, order, owners, E, K: tl.constexpr, S: tl.constexpr, BT: tl.constexpr):
    """A program's expert, below 0 where there is nothing to do, and its pairs [BT], below 0 beyond the last."""
    number = tl.program_id(1)
    if BT == 1:
        pair = number.to(tl.int64) + tl.zeros((1,), tl.int64)
        t, k = number // (K + S), number % (K + S)
        # A shared one has no number: whatever is loaded for it is not used.
        routed = tl.load(experts + t * K + tl.minimum(k, K - 1)).to(tl.int64)
        expert = tl.where(k < K, routed, (E + k - K).to(tl.int64))
    else:
        pair = tl.load(order + number.to(tl.int64) * BT + tl.arange(0, BT)).to(tl.int64)
        expert = tl.load(owners + number).to(tl.int64)
    return expert, pair


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
def multiply(
    x, x_scales, experts, order, owners, out, a, a_scales, b, b_scales, sa, sa_scales, sb, sb_scales,
    stack, stride, scale_stack, scale_stride, shared_stride, shared_scale_stride, G, O, FS, x_stride, out_stride, I, E,
    K: tl.constexpr, S: tl.constexpr, GATED: tl.constexpr, KIND: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, BT: tl.constexpr, BO: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    expert, pair = _task(experts, order, owners, E, K, S, BT)
    if expert < 0:
        return
    routed, before = expert < E, tl.maximum(expert - E, 0) * FS
    a, a_scales, b, b_scales, stride, scale_stride = _weights(
        routed, expert, a, a_scales, b, b_scales, sa, sa_scales, sb, sb_scales,
        stack, stride, scale_stack, scale_stride, shared_stride, shared_scale_stride,
    )  # fmt: skip
    # A shared expert has some rows of the shared gate and up, and the same columns of the shared down.
    if GATED:
        begin_o, count, begin, end = before, tl.where(routed, O, FS), 0, I
    else:
        begin_o, count, begin, end = 0, O, before, tl.where(routed, I, before + FS)
    live_t, row = pair >= 0, pair // (K + S) if GATED else pair
    column = tl.program_id(0) * BO + tl.arange(0, BO)
    o, live_o = (begin_o + column).to(tl.int64), column < count
    block = (begin_o + tl.minimum(tl.program_id(0) * BO, count - 1)) // ROWS
    total, other = tl.zeros((BT, BO), tl.float32), tl.zeros((BT, BO), tl.float32)
    for first in range(begin, end, BI):
        i = first - begin + tl.arange(0, BI)
        live = live_t[:, None] & (i < end - begin)[None, :]
        rows = tl.load(x + row[:, None] * x_stride + i[None, :], mask=live, other=0.0)
        x_scale = row_scale(x_scales, G, row, live_t, first - begin, KIND)
        total = accumulate(
            total, rows, x_scale, a, stride, a_scales, scale_stride, block, o, live_o, first, end,
            KIND, ROWS, COLUMNS, BI,
        )  # fmt: skip
        if GATED:
            other = accumulate(
                other, rows, x_scale, b, stride, b_scales, scale_stride, block, o, live_o, first, end,
                KIND, ROWS, COLUMNS, BI,
            )  # fmt: skip
    result = total / (1 + tl.exp(-total)) * other if GATED else total
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
