"""Pairs of token and expert, sorted by expert and padded to whole tiles: two launches, and the host asks nothing."""

import torch
import triton
import triton.language as tl
from torch import Tensor

LOOK = 1024
"""Pairs that a program looks at together."""


def sort_pairs(experts_TK: Tensor, E: int, S: int, rows: int) -> tuple[Tensor, Tensor]:
    """The order of the pairs, [tiles · rows], -1 where a tile is not full; and each tile's expert, [tiles], or -1.

    Pair t · (K + S) + k is token t's k-th expert; experts E … E+S-1 are the shared ones, which everybody has. There are
    as many tiles as any choice of experts could need, so that the host need not know it. Equal experts keep the order
    of their tokens.
    """
    T, K = experts_TK.shape
    experts_TK = experts_TK.contiguous()
    tiles = most_tiles(T, K, E, S, rows)
    counts_E = torch.empty(E, dtype=torch.int32, device=experts_TK.device)
    owners = torch.full((tiles,), -1, dtype=torch.int32, device=experts_TK.device)
    order = torch.full((tiles * rows,), -1, dtype=torch.int32, device=experts_TK.device)
    _count[(E,)](experts_TK, counts_E, T * K, LOOK=LOOK)
    _place[(E + S,)](
        experts_TK,
        counts_E,
        owners,
        order,
        T,
        E,
        K=K,
        S=S,
        ROWS=rows,
        LOOK=LOOK,
        ALL=triton.next_power_of_2(E),
    )
    return order, owners


def most_tiles(T: int, K: int, E: int, S: int, rows: int) -> int:
    """Tiles that T tokens need at most: each expert in use leaves less than one tile unfilled."""
    chosen = T * K
    return int(min(chosen, chosen // rows + min(E, chosen)) + S * triton.cdiv(T, rows))


@triton.jit
def _count(experts, counts, pairs, LOOK: tl.constexpr):
    e = tl.program_id(0)
    found = tl.zeros((LOOK,), tl.int32)
    for first in range(0, pairs, LOOK):
        place = first + tl.arange(0, LOOK)
        found += (tl.load(experts + place, mask=place < pairs, other=-1) == e).to(tl.int32)
    tl.store(counts + e, tl.sum(found, 0))


@triton.jit
def _place(
    experts, counts, owners, order, T, E,
    K: tl.constexpr, S: tl.constexpr, ROWS: tl.constexpr, LOOK: tl.constexpr, ALL: tl.constexpr,
):  # fmt: skip
    e = tl.program_id(0)
    all_E = tl.arange(0, ALL)
    tiles_E = tl.cdiv(tl.load(counts + all_E, mask=all_E < E, other=0), ROWS)
    # Shared experts come after the others, each with all tokens.
    begin = tl.sum(tl.where(all_E < e, tiles_E, 0), 0) + tl.maximum(e - E, 0) * tl.cdiv(T, ROWS)
    pairs = tl.where(e < E, T * K, T)
    held = 0
    for first in range(0, pairs, LOOK):
        place = first + tl.arange(0, LOOK)
        live = place < pairs
        if e < E:
            mine = live & (tl.load(experts + place, mask=live, other=-1) == e)
            pair = place // K * (K + S) + place % K
        else:
            mine = live
            pair = place * (K + S) + K + e - E
        before = tl.cumsum(mine.to(tl.int32), 0)
        tl.store(order + begin * ROWS + held + before - 1, pair, mask=mine)
        held += tl.sum(mine.to(tl.int32), 0)
    for number in range(tl.cdiv(held, ROWS)):
        tl.store(owners + begin + number, e)
