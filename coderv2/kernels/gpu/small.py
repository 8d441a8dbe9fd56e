"""What stands round the products: norms, rotation, cache rows, routing; each reads its rows once."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from coderv2.kernels.routing import Routing


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm in float32, cast back before the weight, [T, D]; rows may lie apart."""
    T, D = x_TD.shape
    out_TD = x_TD.new_empty(T, D)
    BD = triton.next_power_of_2(D)
    _rms_norm[(T,)](x_TD, x_TD.stride(0), weight_D, out_TD, D, eps, BD=BD, num_warps=4 if BD < 4096 else 8)
    return out_TD


@triton.jit
def _normed(x, weight, d, D, eps, BD: tl.constexpr):
    """A row's norm in the type of its numbers."""
    raw = tl.load(x + d, mask=d < D, other=0.0)
    row = raw.to(tl.float32)
    scale = tl.rsqrt(tl.sum(row * row, 0) / D + eps)
    factor = tl.load(weight + d, mask=d < D, other=0.0)
    return ((row * scale).to(raw.dtype).to(tl.float32) * factor.to(tl.float32)).to(raw.dtype)


@triton.jit
def _rms_norm(x, stride, weight, out, D, eps, BD: tl.constexpr):
    t, d = tl.program_id(0).to(tl.int64), tl.arange(0, BD)
    tl.store(out + t * D + d, _normed(x + t * stride, weight, d, D, eps, BD), mask=d < D)


def rope(x: Tensor, cos_TR2: Tensor, sin_TR2: Tensor) -> Tensor:
    """Turns interleaved pairs of the last axis; x is [T, R] or [T, H, R], its heads and rows may lie apart."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    T, R, H = x.shape[0], x.shape[-1], x.shape[1] if x.dim() == 3 else 1
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _rope[(T,)](
        x, x.stride(0), x.stride(1) if x.dim() == 3 else 0, cos_TR2, sin_TR2, out, H, R // 2,
        BH=triton.next_power_of_2(H), BR=triton.next_power_of_2(R // 2),
    )  # fmt: skip
    return out


@triton.jit
def _turned(x, cos, sin, r, live):
    """The two halves of each rotated pair."""
    even = tl.load(x, mask=live, other=0.0).to(tl.float32)
    odd = tl.load(x + 1, mask=live, other=0.0).to(tl.float32)
    return even * cos - odd * sin, even * sin + odd * cos


@triton.jit
def _rope(x, row_stride, head_stride, cos, sin, out, H, R2, BH: tl.constexpr, BR: tl.constexpr):
    t, h, r = tl.program_id(0).to(tl.int64), tl.arange(0, BH)[:, None], tl.arange(0, BR)[None, :]
    live = (h < H) & (r < R2)
    cos_R2 = tl.load(cos + t * R2 + r, mask=r < R2, other=0.0)
    sin_R2 = tl.load(sin + t * R2 + r, mask=r < R2, other=0.0)
    even, odd = _turned(x + t * row_stride + h * head_stride + 2 * r, cos_R2, sin_R2, r, live)
    place = out + (t * H + h) * 2 * R2 + 2 * r
    tl.store(place, even.to(out.dtype.element_ty), mask=live)
    tl.store(place + 1, odd.to(out.dtype.element_ty), mask=live)


def cache_write(
    latent_PSC: Tensor, k_rope_PSR: Tensor, slots_T: Tensor, latent_TC: Tensor, k_rope_TR: Tensor
) -> None:
    """Stores each token's latent and rotated key in its slot, rounded to the cache's numbers, up to their largest."""
    for pages, rows in ((latent_PSC, latent_TC), (k_rope_PSR, k_rope_TR)):
        T, C = rows.shape
        _write[(T,)](rows, rows.stride(0), slots_T, pages, C, largest(pages), BC=triton.next_power_of_2(C))


def largest(pages: Tensor) -> float:
    """The largest number of a cache; what is beyond becomes it, since fp8 would make it NaN or infinite."""
    return float(torch.finfo(pages.dtype).max)


@triton.jit
def _clamped(values, bound, pages):
    return tl.minimum(tl.maximum(values.to(tl.float32), -bound), bound).to(pages.dtype.element_ty)


@triton.jit
def _write(rows, stride, slots, pages, C, bound, BC: tl.constexpr):
    t, c = tl.program_id(0).to(tl.int64), tl.arange(0, BC)
    values = tl.load(rows + t * stride + c, mask=c < C, other=0.0)
    tl.store(pages + tl.load(slots + t).to(tl.int64) * C + c, _clamped(values, bound, pages), mask=c < C)


def cache_latents(
    raw_TX: Tensor,
    weight_C: Tensor,
    eps: float,
    cos_TR2: Tensor,
    sin_TR2: Tensor,
    latent_PSC: Tensor,
    k_rope_PSR: Tensor,
    slots_T: Tensor,
) -> None:
    """Norm of the latents, rotation of the keys, and both into their slots, in one launch."""
    C, R = latent_PSC.shape[-1], k_rope_PSR.shape[-1]
    _cache_latents[(raw_TX.shape[0],)](
        raw_TX, raw_TX.stride(0), weight_C, eps, cos_TR2, sin_TR2, slots_T, latent_PSC, k_rope_PSR, C, R // 2,
        largest(latent_PSC), BC=triton.next_power_of_2(C), BR=triton.next_power_of_2(R // 2),
    )  # fmt: skip


@triton.jit
def _cache_latents(
    raw, stride, weight, eps, cos, sin, slots, latents, keys, C, R2, bound, BC: tl.constexpr, BR: tl.constexpr
):
    t, c, r = tl.program_id(0).to(tl.int64), tl.arange(0, BC), tl.arange(0, BR)
    slot = tl.load(slots + t).to(tl.int64)
    latent = _normed(raw + t * stride, weight, c, C, eps, BC)
    tl.store(latents + slot * C + c, _clamped(latent, bound, latents), mask=c < C)
    cos_R2 = tl.load(cos + t * R2 + r, mask=r < R2, other=0.0)
    sin_R2 = tl.load(sin + t * R2 + r, mask=r < R2, other=0.0)
    even, odd = _turned(raw + t * stride + C + 2 * r, cos_R2, sin_R2, r, r < R2)
    place = keys + slot * 2 * R2 + 2 * r
    # Rounded to the activations' type on the way, as a rotation by itself would be.
    tl.store(place, _clamped(even.to(raw.dtype.element_ty), bound, keys), mask=r < R2)
    tl.store(place + 1, _clamped(odd.to(raw.dtype.element_ty), bound, keys), mask=r < R2)


def route(x_TD: Tensor, weight: Any, routing: Routing) -> tuple[Tensor, Tensor, Tensor]:
    """Affinities [T, E] in float32, and weights and ids of each token's experts, [T, K]."""
    (T, D), E, K = x_TD.shape, weight.shape[0], routing.top
    scores_TE = torch.empty(T, E, device=x_TD.device)
    weights_TK = torch.empty(T, K, device=x_TD.device)
    experts_TK = torch.empty(T, K, dtype=torch.long, device=x_TD.device)
    _route[(triton.cdiv(T, 16),)](
        x_TD.contiguous(), weight, scores_TE, weights_TK, experts_TK, T, D, routing.factor,
        E=E, K=K, GROUPS=routing.groups, KEPT=routing.kept, NORM=routing.renormalise,
        BT=16, BE=max(triton.next_power_of_2(E), 16), BG=triton.next_power_of_2(routing.groups),
        BD=64 if x_TD.element_size() == 2 else 32, num_stages=2,
    )  # fmt: skip
    return scores_TE, weights_TK, experts_TK


@triton.jit
def _affinities(
    x, weight, t, live_t, e, T, D, E: tl.constexpr, BT: tl.constexpr, BE: tl.constexpr, BD: tl.constexpr
):
    total = tl.zeros((BT, BE), tl.float32)
    for first in range(0, D, BD):
        d = first + tl.arange(0, BD)
        rows = tl.load(x + t[:, None] * D + d[None, :], mask=live_t[:, None] & (d < D)[None, :], other=0.0)
        columns = tl.load(
            weight + e[None, :] * D + d[:, None], mask=(e < E)[None, :] & (d < D)[:, None], other=0.0
        )
        # Products of bfloat16 are exact in float32, so only the sum rounds, as in float32.
        total = tl.dot(rows, columns.to(rows.dtype), total, input_precision="ieee")
    total = tl.where((e < E)[None, :], total, float("-inf"))
    shares = tl.exp(total - tl.max(total, 1)[:, None])
    return shares / tl.sum(shares, 1)[:, None]


@triton.jit
def _best_groups_only(
    scores, e, E: tl.constexpr, GROUPS: tl.constexpr, KEPT: tl.constexpr, BT: tl.constexpr, BG: tl.constexpr
):
    """Scores with 0 outside each token's KEPT best groups; a group is as good as its best expert."""
    g, group = tl.arange(0, BG), e // (E // GROUPS)
    best = tl.full((BT, BG), -1.0, tl.float32)
    for number in tl.static_range(GROUPS):
        top = tl.max(tl.where((group == number)[None, :], scores, -1.0), 1)
        best = tl.where((g == number)[None, :], top[:, None], best)
    kept = tl.zeros(scores.shape, tl.int32)
    for _ in tl.static_range(KEPT):
        chosen = tl.argmax(best, 1)
        kept = tl.where(group[None, :] == chosen[:, None], 1, kept)
        best = tl.where(g[None, :] == chosen[:, None], -2.0, best)
    return tl.where(kept != 0, scores, 0.0)


@triton.jit
def _route(
    x, weight, scores, weights, experts, T, D, factor,
    E: tl.constexpr, K: tl.constexpr, GROUPS: tl.constexpr, KEPT: tl.constexpr, NORM: tl.constexpr,
    BT: tl.constexpr, BE: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    t, e = (tl.program_id(0) * BT + tl.arange(0, BT)).to(tl.int64), tl.arange(0, BE)
    live_t = t < T
    shares = _affinities(x, weight, t, live_t, e, T, D, E, BT, BE, BD)
    tl.store(scores + t[:, None] * E + e[None, :], shares, mask=live_t[:, None] & (e < E)[None, :])
    # NaN has no order, and the place that it wins may be beyond the last expert.
    shares = tl.where(shares == shares, shares, 0.0)
    if GROUPS > KEPT:
        shares = _best_groups_only(shares, e, E, GROUPS, KEPT, BT, BG)
    shares = tl.where((e < E)[None, :], shares, -1.0)
    total = tl.zeros((BT,), tl.float32)
    for k in tl.static_range(K):
        best, chosen = tl.max(shares, 1), tl.argmax(shares, 1)
        shares = tl.where(e[None, :] == chosen[:, None], -1.0, shares)
        total += best
        tl.store(experts + t * K + k, chosen.to(tl.int64), mask=live_t)
        tl.store(weights + t * K + k, best * factor, mask=live_t)
    if NORM:
        for k in tl.static_range(K):
            mine = tl.load(weights + t * K + k, mask=live_t, other=0.0)
            tl.store(weights + t * K + k, mine / (total + 1e-20), mask=live_t)
