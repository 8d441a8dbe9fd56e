"""Latent attention: absorbed over pages with the sum over keys split among programs, and expanded for prompts.

Absorbed, one latent row is key and value of all heads at once: a program holds queries of several heads (and, in a
chunk, of several tokens) as the rows of one tile, loads each latent once and multiplies it twice. With few sequences
the keys are cut into parts, each with its own maximum and sum; `_merge` joins them. A cache in fp8 is widened after the
load.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import triton
import triton.language as tl
from torch import Tensor

from coderv2.kernels.gpu import tiles

LOG2E = tl.constexpr(1.4426950408889634)
SHORTEST = 128
"""Keys that a part of a split has at least."""
MOST_SPLITS = 64


@dataclass(frozen=True)
class Spans:
    """Sequences as the kernels read them, made once for all layers of a pass."""

    starts_B1: Tensor
    """Where each one's queries begin, and the end; int32."""
    lengths_B: Tensor
    """Tokens of each, context included; int32."""
    table_BP: Tensor | None
    """Pages of each in order, int32; what is beyond its tokens is never read. None without a cache."""
    most: int
    """Queries of the sequence that has most: known to the host, since it says how many programs start."""

    @classmethod
    def of(
        cls,
        starts: Sequence[int],
        lengths: Sequence[int],
        page_tables: Sequence[Tensor],
        device: torch.device,
    ) -> "Spans":
        """From what the host knows; one copy to the device."""
        B = len(lengths)
        numbers = torch.tensor([*starts, *lengths], dtype=torch.int32).to(device, non_blocking=True)
        table = (
            torch.nn.utils.rnn.pad_sequence(list(page_tables), batch_first=True).int()
            if page_tables
            else None
        )
        return cls(numbers[: B + 1], numbers[B + 1 :], table, max(e - s for s, e in pairwise(starts)))


def mla_decode(
    q_latent_THC: Tensor,
    q_rope_THR: Tensor,
    latent_PSC: Tensor,
    k_rope_PSR: Tensor,
    *,
    starts: Sequence[int] | Spans,
    lengths: Sequence[int] = (),
    page_tables: Sequence[Tensor] = (),
    scale: float,
) -> Tensor:
    """Causal attention in absorbed form over a paged cache: weighted sums of latents, shape [T, H, C].

    As `reference.mla_decode`; or with all of the sequences in `starts`, as tensors.
    """
    spans = (
        starts if isinstance(starts, Spans) else Spans.of(starts, lengths, page_tables, q_latent_THC.device)
    )
    assert spans.table_BP is not None
    q_latent_THC, q_rope_THR = q_latent_THC.contiguous(), q_rope_THR.contiguous()
    (T, H, C), R, S = q_latent_THC.shape, q_rope_THR.shape[-1], latent_PSC.shape[1]
    tile = _decode_tile(spans.most * H, C, q_latent_THC.element_size(), tiles.card(q_latent_THC.device))
    BM, BN, warps, stages = tile
    B, blocks = spans.table_BP.shape[0], triton.cdiv(spans.most * H, BM)
    splits = _splits(B * blocks, spans.table_BP.shape[1] * S, q_latent_THC.device)
    out_THC = torch.empty_like(q_latent_THC)
    parts = torch.empty(splits, T, H, C, device=out_THC.device) if splits > 1 else out_THC
    logs = torch.empty(splits, T, H, device=out_THC.device)
    _decode[(blocks, B, splits)](
        q_latent_THC, q_rope_THR, latent_PSC, k_rope_PSR, spans.starts_B1, spans.lengths_B, spans.table_BP,
        *spans.table_BP.stride(), parts, logs, T, scale * LOG2E.value, C=C, R=R, H=H, S=S, SPLITS=splits,
        SHORTEST=SHORTEST, BM=BM, BN=BN, BC=_width(C), BR=_width(R), num_warps=warps, num_stages=stages,
    )  # fmt: skip
    if splits > 1:
        BS = triton.next_power_of_2(splits)
        _merge[(T * H,)](parts, logs, out_THC, T * H, C, SPLITS=splits, BS=BS, BC=_width(C))
    return out_THC


def _width(n: int) -> int:
    """What a tile needs along an axis of n: a power of two, and 16 for a product."""
    return int(max(triton.next_power_of_2(n), 16))


def _decode_tile(rows: int, C: int, itemsize: int, card: tiles.Card) -> tuple[int, int, int, int]:
    """Rows of queries, keys in one step, warps, steps in flight. Two of 32 latents of 512 are 64 KiB, which fits 99."""
    if itemsize > 2:
        return 16, 16, 4, 1
    BM = min(max(triton.next_power_of_2(rows), 16), 64 if card.shared > tiles.SMALL_MEMORY else 16)
    return BM, 32 if C > 256 or card.shared <= tiles.SMALL_MEMORY else 64, 8 if BM > 16 else 4, 2


def _splits(programs: int, keys: int, device: torch.device) -> int:
    """Parts of the keys: enough that every processor has two programs, none shorter than SHORTEST at the longest."""
    wanted = 2 * tiles.card(device).processors // max(programs, 1)
    return int(min(max(wanted, 1), MOST_SPLITS, triton.cdiv(keys, SHORTEST)))


@triton.jit
def _decode(
    q_latent, q_rope, latents, keys, starts, lengths, table, sequence_stride, page_stride, parts, logs,
    T, scale,
    C: tl.constexpr, R: tl.constexpr, H: tl.constexpr, S: tl.constexpr, SPLITS: tl.constexpr, SHORTEST: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    b, part = tl.program_id(1), tl.program_id(2)
    start, end, length = tl.load(starts + b), tl.load(starts + b + 1), tl.load(lengths + b)
    # Rows are queries of this sequence times heads: q is [T, H, …], so they lie one after another.
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    live_m = m < (end - start) * H
    if tl.program_id(0) * BM >= (end - start) * H:
        return
    row = start.to(tl.int64) * H + m
    each = tl.maximum(tl.cdiv(tl.cdiv(length, SPLITS), BN) * BN, SHORTEST)
    begin, stop = part * each, tl.minimum(part * each + each, length)
    if begin >= length:
        # A recorded step has parts for the longest context; a short one leaves most of them empty.
        tl.store(
            logs + part.to(tl.int64) * T * H + row, tl.full((BM,), float("-inf"), tl.float32), mask=live_m
        )
        return
    c, r = tl.arange(0, BC), tl.arange(0, BR)
    queries_MC = tl.load(
        q_latent + row[:, None] * C + c[None, :], mask=live_m[:, None] & (c < C)[None, :], other=0.0
    )
    queries_MR = tl.load(
        q_rope + row[:, None] * R + r[None, :], mask=live_m[:, None] & (r < R)[None, :], other=0.0
    )
    position_M = length - (end - start) + m // H
    peak, total = tl.full((BM,), float("-inf"), tl.float32), tl.zeros((BM,), tl.float32)
    sums = tl.zeros((BM, BC), tl.float32)
    for first in range(begin, stop, BN):
        n = first + tl.arange(0, BN)
        page = tl.load(table + b * sequence_stride + n // S * page_stride, mask=n < stop, other=0)
        slot = page.to(tl.int64) * S + n % S
        live_NC = (n < stop)[:, None] & (c < C)[None, :]
        latent_NC = tl.load(latents + slot[:, None] * C + c[None, :], mask=live_NC, other=0.0).to(
            queries_MC.dtype
        )
        live_RN = (r < R)[:, None] & (n < stop)[None, :]
        key_RN = tl.load(keys + slot[None, :] * R + r[:, None], mask=live_RN, other=0.0).to(queries_MR.dtype)
        scores = tl.dot(queries_MR, key_RN, input_precision="ieee")
        scores = tl.dot(queries_MC, tl.trans(latent_NC), scores, input_precision="ieee") * scale
        scores = tl.where((n[None, :] <= position_M[:, None]) & (n < stop)[None, :], scores, float("-inf"))
        peak, total, sums, weights = _fold(scores, peak, total, sums)
        sums = tl.dot(weights.to(latent_NC.dtype), latent_NC, sums, input_precision="ieee")
    seen = total > 0
    result = sums / tl.where(seen, total, 1.0)[:, None]
    place = (part.to(tl.int64) * T * H + row)[:, None] * C + c[None, :]
    tl.store(parts + place, result.to(parts.dtype.element_ty), mask=live_m[:, None] & (c < C)[None, :])
    if SPLITS > 1:
        log = tl.where(seen, peak + tl.log2(tl.where(seen, total, 1.0)), float("-inf"))
        tl.store(logs + part.to(tl.int64) * T * H + row, log, mask=live_m)


@triton.jit
def _fold(scores, peak, total, sums):
    """A block of scores taken into a running softmax: new peak and total, old sums rescaled, the block's weights."""
    higher = tl.maximum(peak, tl.max(scores, 1))
    # A row that has seen nothing yet keeps -inf as its peak; the difference must not be -inf minus -inf.
    ground = tl.where(higher == float("-inf"), 0.0, higher)
    weights = tl.exp2(scores - ground[:, None])
    shrink = tl.exp2(peak - ground)
    return higher, total * shrink + tl.sum(weights, 1), sums * shrink[:, None], weights


@triton.jit
def _merge(parts, logs, out, rows, C, SPLITS: tl.constexpr, BS: tl.constexpr, BC: tl.constexpr):
    """The parts of a row, as far as it has any: what is beyond was never written."""
    row, c, each = tl.program_id(0).to(tl.int64), tl.arange(0, BC), tl.arange(0, BS)
    logs_S = tl.load(logs + each * rows + row, mask=each < SPLITS, other=float("-inf"))
    peak, seen = tl.max(logs_S, 0), tl.max(tl.where(logs_S > float("-inf"), each + 1, 0), 0)
    sums, total = tl.zeros((BC,), tl.float32), tl.zeros((), tl.float32)
    for s in range(seen):
        weight = tl.exp2(tl.load(logs + s * rows + row) - peak)
        total += weight
        sums += weight * tl.load(parts + (s * rows + row) * C + c, mask=c < C, other=0.0)
    tl.store(out + row * C + c, (sums / total).to(out.dtype.element_ty), mask=c < C)


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
    """Causal attention in expanded form over sequences laid end to end, shape [T, H, V]; see `reference`.

    Products are in the type of the queries whatever `rounded` says.
    """
    q_THX, k_SHX, v_SHV = (x if x.stride(-1) == 1 else x.contiguous() for x in (q_THX, k_SHX, v_SHV))
    (T, H, X), V = q_THX.shape, v_SHV.shape[-1]
    # A head of 192 is a tile of 128 and one of 64: a tile's width is a power of two.
    front = 1 << X.bit_length() - 1
    BM, BN = _prefill_tile(q_THX.element_size(), tiles.card(q_THX.device))
    out_THV = q_THX.new_empty(T, H, V)
    places = torch.tensor([*q_starts, *k_starts], dtype=torch.int32).to(q_THX.device, non_blocking=True)
    most = max(end - start for start, end in pairwise(q_starts))
    _prefill[(triton.cdiv(most, BM), H, len(q_starts) - 1)](
        q_THX, k_SHX, v_SHV, out_THV, places, places[len(q_starts) :], scale * LOG2E.value, H,
        q_THX.stride(0), q_THX.stride(1), k_SHX.stride(0), k_SHX.stride(1), v_SHV.stride(0), v_SHV.stride(1),
        V=V, FRONT=front, BACK=X - front, BM=BM, BN=BN, BF=_width(front), BB=_width(X - front), BV=_width(V),
        num_warps=8 if BM > 64 else 4, num_stages=2,
    )  # fmt: skip
    return out_THV


def _prefill_tile(itemsize: int, card: tiles.Card) -> tuple[int, int]:
    """Queries of a program, keys in one step. 128 and 64 take 128 KiB in bfloat16 with two steps in flight."""
    if itemsize > 2:
        return 32, 32  # whole heads of float32 lie in registers
    return (64, 32) if card.shared <= tiles.SMALL_MEMORY else (128, 64)


@triton.jit
def _prefill(
    q, k, v, out, q_starts, k_starts, scale, H, q_row, q_head, k_row, k_head, v_row, v_head,
    V: tl.constexpr, FRONT: tl.constexpr, BACK: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BF: tl.constexpr, BB: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    h, b = tl.program_id(1), tl.program_id(2)
    q_first, q_end = tl.load(q_starts + b), tl.load(q_starts + b + 1)
    k_first, k_end = tl.load(k_starts + b), tl.load(k_starts + b + 1)
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    live_m, context = m < q_end - q_first, (k_end - k_first) - (q_end - q_first)
    if tl.program_id(0) * BM >= q_end - q_first:
        return
    f, g, w = tl.arange(0, BF), tl.arange(0, BB), tl.arange(0, BV)
    q += (q_first.to(tl.int64) + m)[:, None] * q_row + h * q_head
    k += k_first.to(tl.int64) * k_row + h * k_head
    v += k_first.to(tl.int64) * v_row + h * v_head
    front = tl.load(q + f[None, :], mask=live_m[:, None] & (f < FRONT)[None, :], other=0.0)
    if BACK > 0:
        back = tl.load(q + FRONT + g[None, :], mask=live_m[:, None] & (g < BACK)[None, :], other=0.0)
    peak, total = tl.full((BM,), float("-inf"), tl.float32), tl.zeros((BM,), tl.float32)
    sums = tl.zeros((BM, BV), tl.float32)
    # Keys beyond the tile's last query are not looked at.
    stop = tl.minimum(context + tl.program_id(0) * BM + BM, k_end - k_first)
    for first in range(0, stop, BN):
        n = first + tl.arange(0, BN)
        live_n = n < stop
        keys = k + n[None, :].to(tl.int64) * k_row
        near = tl.load(keys + f[:, None], mask=(f < FRONT)[:, None] & live_n[None, :], other=0.0)
        scores = tl.dot(front, near, input_precision="ieee")
        if BACK > 0:
            far = tl.load(keys + FRONT + g[:, None], mask=(g < BACK)[:, None] & live_n[None, :], other=0.0)
            scores = tl.dot(back, far, scores, input_precision="ieee")
        scores = tl.where(
            (n[None, :] <= context + m[:, None]) & live_n[None, :], scores * scale, float("-inf")
        )
        peak, total, sums, weights = _fold(scores, peak, total, sums)
        live = live_n[:, None] & (w < V)[None, :]
        values = tl.load(v + n[:, None].to(tl.int64) * v_row + w[None, :], mask=live, other=0.0)
        sums = tl.dot(weights.to(values.dtype), values, sums, input_precision="ieee")
    result = sums / tl.where(total > 0, total, 1.0)[:, None]
    place = out + ((q_first.to(tl.int64) + m)[:, None] * H + h) * V + w[None, :]
    tl.store(place, result.to(out.dtype.element_ty), mask=live_m[:, None] & (w < V)[None, :])
