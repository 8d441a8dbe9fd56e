"""Multi-head latent attention: expanded, absorbed, and the one `if` between them (spec §4; V2 report §2.1)."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from coderv2.kernels.formats import ROWS, Weight
from coderv2.kernels.ops import Ops
from coderv2.model.batch import Batch, Group
from coderv2.model.cache import LatentCache
from coderv2.model.config import ModelConfig
from coderv2.model.parallel import Team
from coderv2.model.rope import softmax_scale

PIECE = 4096
"""Tokens of a long context whose keys and values are expanded at a time: 117 MB of Lite's."""

# The published code gives the norms inside attention this constant, whatever rms_norm_eps says.
LATENT_NORM_EPS = 1e-6


@dataclass(frozen=True)
class AttentionPlan:
    """What all layers of one forward share: who computes, rotary tables, and which sequences take which form."""

    ops: type[Ops]
    cos_TR2: Tensor
    sin_TR2: Tensor
    expanded: Group | None
    expanded_slots_S: Tensor | None
    """Where in the cache all their tokens are, context first, sequences laid end to end; none without a cache."""
    absorbed: Group | None
    spans: dict[str, Any]
    """The absorbed ones as `mla_decode` takes them."""
    team: Team
    counts: tuple[int, ...]
    """Tokens of each rank, where ranks have tokens of their own."""


def split_forms(batch: Batch, config: ModelConfig) -> tuple[Group | None, Group | None]:
    """Sequences for the expanded form, and for the absorbed form."""
    if batch.cache is None:
        return batch.group(range(len(batch.contexts))), None
    # A token must not pass through another form because its chunk is longer.
    bound = float("inf") if batch.deterministic else crossing(config)
    wide = [b for b in range(len(batch.contexts)) if batch.starts[b + 1] - batch.starts[b] >= bound]
    narrow = [b for b in range(len(batch.contexts)) if b not in wide]
    return batch.group(wide) if wide else None, batch.group(narrow) if narrow else None


def slots_of(group: Group | None, cache: LatentCache | None) -> Tensor | None:
    """Where in the cache all of the group's tokens are."""
    if group is None or cache is None:
        return None
    tables = zip(group.page_tables, group.lengths, strict=True)
    return torch.cat([cache.slots(table)[:length] for table, length in tables])


def crossing(config: ModelConfig) -> float:
    """New tokens from which expanding the whole context costs fewer multiplications than absorbing.

    Per head and attended token, expanding costs C(N+V) once, absorbing 2C-N-V more for each new token: 171 for the
    released models.
    """
    extra = 2 * config.kv_lora_rank - config.qk_nope_head_dim - config.v_head_dim
    return (
        config.kv_lora_rank * (config.qk_nope_head_dim + config.v_head_dim) / extra
        if extra > 0
        else float("inf")
    )


class LatentAttention(nn.Module):
    """One layer's attention; weights as published, `[out, in]`, heads outermost in fused outputs (spec §3.1)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        self.layer = layer
        self.scale = softmax_scale(config)
        D, H, C, R = (
            config.hidden_size,
            config.num_attention_heads,
            config.kv_lora_rank,
            config.qk_rope_head_dim,
        )
        if config.q_lora_rank is None:
            self.q_proj = nn.Parameter(torch.empty(H * config.qk_head_dim, D))
        else:
            self.q_a_proj = nn.Parameter(torch.empty(config.q_lora_rank, D))
            self.q_a_layernorm = nn.Parameter(torch.empty(config.q_lora_rank))
            self.q_b_proj = nn.Parameter(torch.empty(H * config.qk_head_dim, config.q_lora_rank))
        self.kv_a_proj_with_mqa = nn.Parameter(torch.empty(C + R, D))
        self.kv_a_layernorm = nn.Parameter(torch.empty(C))
        self.kv_b_proj = nn.Parameter(torch.empty(H * (config.qk_nope_head_dim + config.v_head_dim), C))
        self.o_proj = nn.Parameter(torch.empty(D, H * config.v_head_dim))
        # In place of kv_b_proj where the weights are packed (`pack`).
        self.key_up: Weight | None = None
        self.key_absorb: Weight | None = None
        self.value_up: Weight | None = None

    def forward(self, x_TD: Tensor, batch: Batch, plan: AttentionPlan) -> Tensor:
        """Output for every row, [T, D]; with a cache, the new tokens are written to it first."""
        q_nope_THN, q_rope_THR = self._queries(x_TD, plan)
        raw_TX = plan.ops.linear(x_TD, self.kv_a_proj_with_mqa)
        if batch.cache is not None and batch.slots_T is not None:
            tables = (plan.cos_TR2, plan.sin_TR2)
            weight = (self.kv_a_layernorm, LATENT_NORM_EPS)
            plan.ops.cache_latents(raw_TX, *weight, *tables, *self._pages(batch.cache), batch.slots_T)
        parts: list[tuple[Group, Tensor]] = []
        if (wide := plan.expanded) is not None:
            q_THX = torch.cat((q_nope_THN[wide.rows], q_rope_THR[wide.rows]), -1)
            if batch.cache is not None and plan.ops.in_pieces and sum(wide.lengths) > 2 * PIECE:
                parts.append((wide, self._in_pieces(plan, wide, q_THX, batch.cache)))
            elif batch.cache is not None:
                keys = self._cached(plan, batch.cache, plan.expanded_slots_S, raw_TX.dtype)
                parts.append((wide, self._expanded(plan, wide, q_THX, *keys)))
            else:
                parts.append((wide, self._expanded(plan, wide, q_THX, *self._latents(raw_TX, plan))))
        if (narrow := plan.absorbed) is not None and batch.cache is not None:
            queries = q_nope_THN[narrow.rows], q_rope_THR[narrow.rows]
            parts.append((narrow, self._absorbed(plan, *queries, *self._pages(batch.cache))))
        out_TD: Tensor = plan.ops.linear(_merge(parts, x_TD.shape[0]).flatten(1), self.o_proj)
        return out_TD

    def _queries(self, x_TD: Tensor, plan: AttentionPlan) -> tuple[Tensor, Tensor]:
        ops = plan.ops
        if self.config.q_lora_rank is None:
            q_TO = ops.linear(x_TD, self.q_proj)
        else:
            compressed_TQ = ops.rms_norm(ops.linear(x_TD, self.q_a_proj), self.q_a_layernorm, LATENT_NORM_EPS)
            q_TO = ops.linear(compressed_TQ, self.q_b_proj)
        q_THX = q_TO.unflatten(-1, (self.config.num_attention_heads, self.config.qk_head_dim))
        q_nope_THN, q_rope_THR = q_THX.split([self.config.qk_nope_head_dim, self.config.qk_rope_head_dim], -1)
        return q_nope_THN, ops.rope(q_rope_THR, plan.cos_TR2, plan.sin_TR2)

    def _latents(self, raw_TX: Tensor, plan: AttentionPlan) -> tuple[Tensor, Tensor]:
        ops = plan.ops
        latent_TC, k_rope_TR = raw_TX.split([self.config.kv_lora_rank, self.config.qk_rope_head_dim], -1)
        latent_TC = ops.rms_norm(latent_TC, self.kv_a_layernorm, LATENT_NORM_EPS)
        return latent_TC, ops.rope(k_rope_TR, plan.cos_TR2, plan.sin_TR2)

    def _pages(self, cache: LatentCache) -> tuple[Tensor, Tensor]:
        return cache.latent_LPSC[self.layer], cache.k_rope_LPSR[self.layer]

    def _cached(
        self, plan: AttentionPlan, cache: LatentCache, slots_S: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Latents and keys that lie in these slots."""
        widths = self.config.kv_lora_rank, self.config.qk_rope_head_dim
        latent_SC, k_rope_SR = (
            plan.ops.cache_read(pages_PSX, slots_S, width, dtype)
            for pages_PSX, width in zip(self._pages(cache), widths, strict=True)
        )
        return latent_SC, k_rope_SR

    def _expanded(
        self, plan: AttentionPlan, group: Group, q_THX: Tensor, latent_SC: Tensor, k_rope_SR: Tensor
    ) -> Tensor:
        """Over full keys and values of every head, made from the latents (spec §4.1), [T, H, V]."""
        out_THV: Tensor = plan.ops.mla_prefill(
            q_THX,
            *self._keys_and_values(plan.ops, latent_SC.to(q_THX.dtype), k_rope_SR.to(q_THX.dtype)),
            q_starts=group.starts,
            k_starts=tuple(accumulate(group.lengths, initial=0)),
            scale=self.scale,
            rounded=self._rounded,
        )
        return out_THV

    def _in_pieces(self, plan: AttentionPlan, group: Group, q_THX: Tensor, cache: LatentCache) -> Tensor:
        """The same a piece of the context after another: all of a long one's keys would take gigabytes."""
        assert plan.expanded_slots_S is not None
        outs: list[Tensor] = []
        rows = plan.expanded_slots_S.split(group.lengths)
        for (first, last), slots_S in zip(pairwise(group.starts), rows, strict=True):
            context = len(slots_S) - (last - first)
            out_THV: Tensor | None = None
            spread_TH: Tensor | None = None
            pieces = [(piece_S, False) for piece_S in slots_S[:context].split(PIECE)] if context else []
            for piece_S, causal in (*pieces, (slots_S[context:], True)):
                keys = self._cached(plan, cache, piece_S, q_THX.dtype)
                part_THV, part_TH = plan.ops.mla_part(
                    q_THX[first:last],
                    *self._keys_and_values(plan.ops, *keys),
                    causal=causal,
                    scale=self.scale,
                    rounded=self._rounded,
                )
                out_THV, spread_TH = _joined(out_THV, spread_TH, part_THV, part_TH)
            assert out_THV is not None
            outs.append(out_THV)
        return torch.cat(outs)

    @property
    def _rounded(self) -> bool:
        """True where products of weights and values may be in bfloat16: the model's weights are no better."""
        return self.value_up is not None and self.value_up.format.name != "f32"

    def _keys_and_values(self, ops: type[Ops], latent_SC: Tensor, k_rope_SR: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [S, H, N + R] and values [S, H, V]."""
        H, N, V = self.config.num_attention_heads, self.config.qk_nope_head_dim, self.config.v_head_dim
        if self.key_up is None or self.value_up is None:
            k_nope_SHN, v_SHV = ops.linear(latent_SC, self.kv_b_proj).unflatten(-1, (H, -1)).split([N, V], -1)
        else:
            k_nope_SHN = _through(ops.linear, ops, latent_SC, self.key_up)
            # One of a hundred products of a layer, and a quarter of what rounding rows to int8 costs in quality.
            v_SHV = _through(ops.fine_linear, ops, latent_SC, self.value_up)
        return torch.cat((k_nope_SHN, k_rope_SR[:, None].expand(-1, H, -1)), -1), v_SHV

    def _maps(self) -> tuple[Tensor | Weight, Tensor | Weight]:
        """Into latent space, and out of it: a plain one [H, I, O], a packed one [H, O, I]."""
        if self.key_absorb is not None and self.value_up is not None:
            return self.key_absorb, self.value_up
        up_HOC = self.kv_b_proj.unflatten(0, (self.config.num_attention_heads, -1))
        key_HNC, value_HVC = up_HOC.split([self.config.qk_nope_head_dim, self.config.v_head_dim], 1)
        return key_HNC, value_HVC.transpose(1, 2)

    def _absorbed(
        self,
        plan: AttentionPlan,
        q_nope_THN: Tensor,
        q_rope_THR: Tensor,
        latent_PSC: Tensor,
        k_rope_PSR: Tensor,
    ) -> Tensor:
        """Queries carried into latent space, results carried out of it (spec §4.2), [T, H, V]."""
        (into, out), ops = self._maps(), plan.ops
        q_latent_THC = ops.head_linear(q_nope_THN, into)
        out_THC = ops.mla_decode(
            q_latent_THC, q_rope_THR, latent_PSC, k_rope_PSR, **plan.spans, scale=self.scale
        )
        value_THV: Tensor = ops.head_linear(out_THC, out)
        return value_THV


def _through(linear: Callable[..., Tensor], ops: type[Ops], latent_SC: Tensor, stack_HOC: Weight) -> Tensor:
    """Latents times each head's matrix, [S, H, O]: one product where heads are whole blocks of rows."""
    H, O, _ = stack_HOC.shape
    out_SHO: Tensor
    if O % ROWS == 0:
        out_SHO = linear(latent_SC, stack_HOC.joined()).unflatten(-1, (H, O))
    else:
        out_SHO = ops.head_linear(latent_SC[:, None].expand(-1, H, -1), stack_HOC)
    return out_SHO


def _joined(
    out_THV: Tensor | None, spread_TH: Tensor | None, more_THV: Tensor, more_TH: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention to some keys and to more of them as attention to all; spreads are logarithms of sums of e^score."""
    if out_THV is None or spread_TH is None:
        return more_THV, more_TH
    both_TH = torch.logaddexp(spread_TH, more_TH)
    shares = ((spread - both_TH).exp()[..., None].to(out_THV.dtype) for spread in (spread_TH, more_TH))
    out_THV, more_THV = (part * share for part, share in zip((out_THV, more_THV), shares, strict=True))
    return out_THV + more_THV, both_TH


def _merge(parts: list[tuple[Group, Tensor]], T: int) -> Tensor:
    """The groups' rows back in the batch's order."""
    if len(parts) == 1:
        return parts[0][1]
    out_THV = parts[0][1].new_empty(T, *parts[0][1].shape[1:])
    for group, rows in parts:
        out_THV[group.rows] = rows
    return out_THV
