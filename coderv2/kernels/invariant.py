"""Operations whose every row is bitwise the same whatever the other rows are, how many there are and where it stands.

A library picks its kernel by the shape, and each kernel adds in an order of its own: that is why one token alone gives
other last bits than the same token in a crowd. So here

- a product of matrices is made of pieces of 16, 64 or 256 rows, filled up with zeros: `disagreement` proves for a
  weight, on the machine at hand, that these three give a row the same bits in every place;
- attention goes over the keys in blocks of 256, added up in order; a key that a query does not see adds an exact zero,
  so only the query's own length counts, not how its tokens were cut into chunks;
- SiLU is written with `exp`: PyTorch's own treats the last few elements of a tensor differently;
- a token's experts are added in the order of its own ranking.

bfloat16 is rounded where `reference` rounds it, so both differ by rounding only.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from coderv2.kernels.latents import widened

PIECES = (256, 64, 16)
KEYS = 256
"""Keys in a block of attention."""


def linear(x_TD: Tensor, weight_OD: Tensor) -> Tensor:
    """`x · Wᵀ`, shape [T, O]."""
    x_TD = x_TD.contiguous()
    parts = [F.linear(_filled(x_TD[b:e], size), weight_OD)[: e - b] for b, e, size in _spans(x_TD.shape[0])]
    return torch.cat(parts) if len(parts) != 1 else parts[0]


def head_linear(x_THI: Tensor, weight_HIO: Tensor) -> Tensor:
    """Each head's own map, shape [T, H, O]."""
    heads = zip(x_THI.unbind(1), weight_HIO, strict=True)
    return torch.stack([linear(x_TI, weight_IO.T) for x_TI, weight_IO in heads], 1)


def router(x_TD: Tensor, weight_ED: Tensor) -> Tensor:
    """Affinity of each token to each expert, in float32, shape [T, E]."""
    return linear(x_TD.float(), weight_ED.float()).softmax(-1)


def swiglu(x_TD: Tensor, gate_FD: Tensor, up_FD: Tensor, down_DF: Tensor) -> Tensor:
    """`down(silu(gate·x) ⊙ up·x)`."""
    return linear(_silu(linear(x_TD, gate_FD)) * linear(x_TD, up_FD), down_DF)


def _silu(x: Tensor) -> Tensor:
    wide = x.float()
    return (wide / ((-wide).exp() + 1)).to(x.dtype)


def experts(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    gate_EFD: Tensor,
    up_EFD: Tensor,
    down_EDF: Tensor,
) -> Tensor:
    """Sum over each token's K experts of weight times expert, in float32 and best expert first, shape [T, D]."""
    T, K = experts_TK.shape
    chosen = experts_TK.flatten()
    out_nD = x_TD.new_zeros(T * K, x_TD.shape[1])
    for expert in chosen[chosen >= 0].unique().tolist():
        rows = (chosen == expert).nonzero().flatten()
        out_nD[rows] = swiglu(x_TD[rows // K], gate_EFD[expert], up_EFD[expert], down_EDF[expert])
    weighted_TKD = out_nD.unflatten(0, (T, K)).float() * weights_TK[..., None]
    sum_TD: Tensor = weighted_TKD[:, 0]
    for k in range(1, K):
        sum_TD = sum_TD + weighted_TKD[:, k]
    return sum_TD.to(x_TD.dtype)


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
    """Causal attention in absorbed form over a paged cache, shape [T, H, C]; see `reference`."""
    out_THC = torch.empty_like(q_latent_THC)
    q_THX = torch.cat((q_latent_THC, q_rope_THR), -1)
    for (first, last), length, table in zip(pairwise(starts), lengths, page_tables, strict=True):
        keys_SX = _keys(
            widened(latent_PSC[table], q_latent_THC.shape[-1], q_THX.dtype),
            widened(k_rope_PSR[table], q_rope_THR.shape[-1], q_THX.dtype),
            length,
        )
        _attend(q_THX[first:last], keys_SX, length, scale, out_THC[first:last])
    return out_THC


def _keys(latent_pSC: Tensor, k_rope_pSR: Tensor, length: int) -> Tensor:
    """A sequence's latents and rotated keys side by side, zeros after the last up to a whole block."""
    keys_SX = torch.cat((latent_pSC.flatten(0, 1)[:length], k_rope_pSR.flatten(0, 1)[:length]), -1)
    return F.pad(keys_SX, (0, 0, 0, -length % KEYS))


def _attend(q_THX: Tensor, keys_SX: Tensor, length: int, scale: float, out_THC: Tensor) -> None:
    """Fills `out_THC` for queries that are the last of `length` tokens; a piece sees whole blocks of keys."""
    T, H, C = out_THC.shape
    positions_M = torch.arange(length - T, length, device=q_THX.device).repeat_interleave(H)
    q_MX, out_MC = q_THX.flatten(0, 1), out_THC.flatten(0, 1)
    for begin, end, size in _spans(T * H):
        # The last query of the piece says how far it looks; what is padding looks nowhere and is thrown away.
        S = -(-(int(positions_M[end - 1]) + 1) // KEYS) * KEYS
        piece_MX = _filled(q_MX[begin:end], size)
        blocks_SX = keys_SX[:S].split(KEYS)
        scores_MS = torch.cat([F.linear(piece_MX, block_KX) for block_KX in blocks_SX], -1)[
            : end - begin
        ].float()
        hidden_MS = torch.arange(S, device=q_THX.device) > positions_M[begin:end, None]
        weights_MS = (scores_MS * scale).masked_fill_(hidden_MS, float("-inf")).softmax(-1)
        out_MC[begin:end] = _weighed(_filled(weights_MS.to(q_THX.dtype), size), blocks_SX, C)[: end - begin]


def _weighed(weights_MS: Tensor, blocks_SX: Sequence[Tensor], C: int) -> Tensor:
    """Sums of latents, one block of keys after the other, in float32."""
    parts = zip(weights_MS.split(KEYS, 1), blocks_SX, strict=True)
    total_MC = torch.zeros(weights_MS.shape[0], C, device=weights_MS.device)
    for weights_MK, block_KX in parts:
        total_MC += F.linear(weights_MK.contiguous(), block_KX[:, :C].T)
    return total_MC.to(weights_MS.dtype)


def _spans(rows: int) -> Iterator[tuple[int, int, int]]:
    """Rows cut into pieces: begin, end, and the size that the piece is filled up to."""
    begin = 0
    while begin < rows:
        size = next((size for size in PIECES if size <= rows - begin), PIECES[-1])
        end = min(begin + size, rows)
        yield begin, end, size
        begin = end


def _filled(x_MI: Tensor, rows: int) -> Tensor:
    """Zero rows appended up to `rows`."""
    return x_MI if x_MI.shape[0] == rows else F.pad(x_MI, (0, 0, 0, rows - x_MI.shape[0]))


def disagreement(weight_OD: Tensor) -> str | None:
    """How this machine's product with a weight depends on a row's company, or None when it does not.

    Random numbers, so that another order of additions shows; 256 rows at once, in smaller pieces and in other places.
    """
    generator = torch.Generator().manual_seed(0)
    x_TD = torch.randn(PIECES[0], weight_OD.shape[1], generator=generator).to(weight_OD)
    whole_TO = F.linear(x_TD, weight_OD)
    for size in PIECES:
        if not torch.equal(torch.cat([F.linear(x_MD, weight_OD) for x_MD in x_TD.split(size)]), whole_TO):
            return f"{size} rows at once give other bits than {PIECES[0]}"
    turned_TO = F.linear(x_TD.roll(7, 0), weight_OD)
    return None if torch.equal(turned_TO, whole_TO.roll(7, 0)) else "a row's bits depend on its place"
