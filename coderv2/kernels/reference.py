"""Every operation of a forward pass in plain PyTorch: the definition of right, on any device.

Letters: see `coderv2/model/__init__.py`. Sums that decide anything (norms, router, softmax) run in float32.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from coderv2.kernels import scaled
from coderv2.kernels.latents import stored, widened
from coderv2.kernels.scaled import Scaled

GATHERED = 1 << 15
"""Cached tokens that absorbed attention copies side by side at most: 75 MB for the released models in float32."""


def embedding(token_ids_T: Tensor, weight_WD: Tensor) -> Tensor:
    """The tokens' rows, shape [T, D]."""
    return F.embedding(token_ids_T, weight_WD)


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm in float32, cast back before the weight as in the published code."""
    wide_TD = x_TD.float()
    scale_T1 = torch.rsqrt(wide_TD.pow(2).mean(-1, keepdim=True) + eps)
    return weight_D * (wide_TD * scale_T1).to(x_TD.dtype)


def linear(x_TD: Tensor, weight_OD: Tensor | Scaled) -> Tensor:
    """`x · Wᵀ`, shape [T, O]; with an fp8 weight the rows are rounded to fp8 first."""
    if isinstance(weight_OD, Tensor):
        return F.linear(x_TD, weight_OD)
    rows_TD = x_TD.float()
    if weight_OD.kind == "fp8":
        rows_TD = scaled.restore_rows(*scaled.round_rows(x_TD, weight_OD.input_scale))
    return F.linear(rows_TD, scaled.restore(weight_OD)).to(x_TD.dtype)


def fine_linear(x_TD: Tensor, weight_OD: Tensor | Scaled) -> Tensor:
    """`linear`, whose rows lose less where packed weights have them rounded."""
    return linear(x_TD, weight_OD)


def head_linear(x_THI: Tensor, weight_HIO: Tensor) -> Tensor:
    """Each head's own map, as absorbed attention has it before and after, shape [T, H, O]."""
    return torch.einsum("thi,hio->tho", x_THI, weight_HIO)


def rope(x: Tensor, cos_TR2: Tensor, sin_TR2: Tensor) -> Tensor:
    """Turns interleaved pairs (0,1), (2,3)… of the last axis; x is [T, R] or [T, H, R]."""
    if x.dim() == 3:
        cos_TR2, sin_TR2 = cos_TR2[:, None], sin_TR2[:, None]
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((even * cos_TR2 - odd * sin_TR2, even * sin_TR2 + odd * cos_TR2), -1)
    return turned.flatten(-2).to(x.dtype)


def mla_prefill(
    q_THX: Tensor,
    k_SHX: Tensor,
    v_SHV: Tensor,
    *,
    q_starts: Sequence[int],
    k_starts: Sequence[int],
    scale: float,
    rounded: bool = False,
) -> Tensor:
    """Causal attention in expanded form over sequences laid end to end, shape [T, H, V].

    `rounded` allows products in bfloat16, which is done only where it is faster: not here. X is N+R. Sequence b has
    queries `q_starts[b]:q_starts[b+1]` and keys `k_starts[b]:k_starts[b+1]`; its last query sees its last key, so fewer
    queries than keys means that the first keys are context.
    """
    parts = [
        _attend(q_THX[q0:q1], k_SHX[k0:k1], v_SHV[k0:k1], scale)
        for (q0, q1), (k0, k1) in zip(pairwise(q_starts), pairwise(k_starts), strict=True)
    ]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _attend(q_THX: Tensor, k_SHX: Tensor, v_SHV: Tensor, scale: float) -> Tensor:
    T, S, X, V = q_THX.shape[0], k_SHX.shape[0], q_THX.shape[-1], v_SHV.shape[-1]
    # PyTorch's fused kernel wants one head width; zeros appended to the values cost less than leaving it.
    v_SHX = F.pad(v_SHV, (0, X - V)) if V < X else v_SHV
    mask_TS = None if T == S else _causal(T, S, q_THX.device)
    q, k, v = (t.transpose(0, 1)[None] for t in (q_THX, k_SHX, v_SHX))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_TS, is_causal=T == S, scale=scale)
    return out[0].transpose(0, 1)[..., :V]


def mla_part(
    q_THX: Tensor, k_SHX: Tensor, v_SHV: Tensor, *, causal: bool, scale: float, rounded: bool = False
) -> tuple[Tensor, Tensor]:
    """One sequence's attention to some of its keys, and the logarithm of each query's sum of e^score, [T, H].

    `causal`: the last of the keys are the queries' own; else all are earlier than they.
    """
    heads = range(q_THX.shape[1])
    parts = [_head_part(q_THX[:, h], k_SHX[:, h], v_SHV[:, h], causal=causal, scale=scale) for h in heads]
    return torch.stack([out for out, _ in parts], 1), torch.stack([spread for _, spread in parts], 1)


def _head_part(
    q_TX: Tensor, k_SX: Tensor, v_SV: Tensor, *, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    scores_TS = (q_TX @ k_SX.T).float() * scale
    if causal:
        scores_TS.masked_fill_(~_causal(len(q_TX), len(k_SX), scores_TS.device), float("-inf"))
    return scores_TS.softmax(-1).to(v_SV.dtype) @ v_SV, scores_TS.logsumexp(-1)


def mla_decode(
    q_latent_THC: Tensor,
    q_rope_THR: Tensor,
    latent_PSC: Tensor,
    k_rope_PSR: Tensor,
    *,
    starts: Sequence[int],
    lengths: Sequence[int],
    page_tables: Sequence[Tensor],
    scale: float,
) -> Tensor:
    """Causal attention in absorbed form over a paged cache: weighted sums of latents, shape [T, H, C].

    Sequence b has queries `starts[b]:starts[b+1]`, the last of its `lengths[b]` tokens, all of them in the cache
    at `page_tables[b]` (pages in order). One 576-wide key serves all heads (spec §4.2).
    """
    out_THC = torch.empty_like(q_latent_THC)
    for members, T in _alike(starts, lengths):
        rows_BT = torch.tensor([range(starts[b], starts[b] + T) for b in members], device=out_THC.device)
        lengths_B = torch.tensor([lengths[b] for b in members], device=out_THC.device)
        table_BP = _side_by_side([page_tables[b] for b in members])
        out_THC[rows_BT] = _attend_latents(
            q_latent_THC[rows_BT],
            q_rope_THR[rows_BT],
            widened(_gather(latent_PSC, table_BP), q_latent_THC.shape[-1], q_latent_THC.dtype),
            widened(_gather(k_rope_PSR, table_BP), q_rope_THR.shape[-1], q_rope_THR.dtype),
            lengths_B,
            scale,
        )
    return out_THC


def _alike(starts: Sequence[int], lengths: Sequence[int]) -> Iterator[tuple[list[int], int]]:
    """Sequences of equally many queries and, within a factor of two, tokens; and how many queries."""
    alike: dict[tuple[int, int], list[int]] = {}
    for b, length in enumerate(lengths):
        alike.setdefault((starts[b + 1] - starts[b], length.bit_length()), []).append(b)
    for (T, bits), members in alike.items():
        most = max(1, GATHERED >> bits)
        for first in range(0, len(members), most):
            yield members[first : first + most], T


def _side_by_side(tables: Sequence[Tensor]) -> Tensor:
    """Page tables as the rows of one tensor, filled up with their first pages."""
    width = max(table.shape[0] for table in tables)
    rows = [torch.cat((t, t[:1].expand(width - t.shape[0]))) if t.shape[0] < width else t for t in tables]
    return torch.stack(rows)


def _gather(pages_PSC: Tensor, table_BP: Tensor) -> Tensor:
    """The tokens of every row's pages, in order, [B, S, C]."""
    return pages_PSC.index_select(0, table_BP.flatten()).view(table_BP.shape[0], -1, pages_PSC.shape[-1])


def _attend_latents(
    q_latent_BTHC: Tensor,
    q_rope_BTHR: Tensor,
    latent_BSC: Tensor,
    k_rope_BSR: Tensor,
    lengths_B: Tensor,
    scale: float,
) -> Tensor:
    (T, H), S = q_latent_BTHC.shape[1:3], latent_BSC.shape[1]
    scores_BMS = q_rope_BTHR.flatten(1, 2) @ k_rope_BSR.mT
    scores_BMS = torch.baddbmm(scores_BMS, q_latent_BTHC.flatten(1, 2), latent_BSC.mT).float() * scale
    ends_BT = lengths_B[:, None] + torch.arange(1 - T, 1, device=lengths_B.device)
    unseen_BTS = torch.arange(S, device=lengths_B.device) >= ends_BT[..., None]
    scores_BMS.masked_fill_(unseen_BTS.repeat_interleave(H, 1), float("-inf"))
    out_BMC = scores_BMS.softmax(-1).to(latent_BSC.dtype) @ latent_BSC
    out_BTHC: Tensor = out_BMC.unflatten(1, (T, H))
    return out_BTHC


def _causal(T: int, S: int, device: torch.device) -> Tensor:
    """True where query t (the last T of S tokens) may see key s, shape [T, S]."""
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


def cache_write(
    latent_PSC: Tensor, k_rope_PSR: Tensor, slots_T: Tensor, latent_TC: Tensor, k_rope_TR: Tensor
) -> None:
    """Stores each token's latent and rotated key in its slot (page · page size + place in the page)."""
    for pages, rows in ((latent_PSC, latent_TC), (k_rope_PSR, k_rope_TR)):
        same = (
            pages.view(torch.uint8) if pages.dtype.itemsize == 1 else pages
        )  # not every byte format can be copied into
        rows = stored(rows, pages.dtype)
        same.flatten(0, 1).index_copy_(0, slots_T, rows.view(same.dtype))


def cache_read(pages_PSX: Tensor, slots_S: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """What the slots store, shape [S, width] in `dtype`."""
    same = pages_PSX.view(torch.uint8) if pages_PSX.dtype.itemsize == 1 else pages_PSX
    return widened(same.flatten(0, 1)[slots_S].view(pages_PSX.dtype), width, dtype)


def router(x_TD: Tensor, weight_ED: Tensor) -> Tensor:
    """Affinity of each token to each expert: softmax over all experts, in float32, shape [T, E]."""
    return F.linear(x_TD.float(), weight_ED.float()).softmax(-1)


def experts(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    gate_EFD: Tensor | Scaled,
    up_EFD: Tensor | Scaled,
    down_EDF: Tensor | Scaled,
) -> Tensor:
    """Sum over each token's K experts of weight times expert, accumulated in float32, shape [T, D].

    An expert below 0 is another machine's and adds nothing.
    """
    K = experts_TK.shape[1]
    foreign, *counts = torch.bincount(experts_TK.flatten() + 1, minlength=gate_EFD.shape[0] + 1).tolist()
    order = experts_TK.flatten().argsort(stable=True)[foreign:]
    token = order // K
    # Unbound rather than indexed, since the gradient of each index would be a whole stack of zeros.
    weights: Any = zip(gate_EFD.unbind(), up_EFD.unbind(), down_EDF.unbind(), strict=True)
    rows = zip(x_TD[token].split(counts), weights, strict=True)
    outputs = [swiglu(rows_nD, *expert) for rows_nD, expert in rows if rows_nD.shape[0]]
    weighted = torch.cat([x_TD[:0], *outputs]).float() * weights_TK.flatten()[order][:, None]
    out_TD = torch.zeros(x_TD.shape, dtype=torch.float32, device=x_TD.device)
    return out_TD.index_add(0, token, weighted).to(x_TD.dtype)


def swiglu(
    x_TD: Tensor, gate_FD: Tensor | Scaled, up_FD: Tensor | Scaled, down_DF: Tensor | Scaled
) -> Tensor:
    """`down(silu(gate·x) ⊙ up·x)`, the feed-forward of every MLP and expert (spec §5)."""
    return linear(F.silu(linear(x_TD, gate_FD)) * linear(x_TD, up_FD), down_DF)
