"""From scores to drawn tokens: temperature, min_p, top_k, top_p, and one number from 0 to 1 for each row.

The kept tokens lie along a line, each as long as it is likely; a row's token is the one at its number. No operation
mixes rows: a row's token does not depend on the others.

A vocabulary of 100,000 is dear to sort and to add up. So it is cut into chunks: all of it only goes through softmax,
and what follows looks at the chunks that can hold one of the likeliest tokens, or the token at the number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from coderv2.engine.request import SamplingParams

FEW = 64
"""Likeliest tokens among which min_p, top_k and top_p nearly always end; where they do not, all are looked at."""
CHUNK = 64
"""Tokens that are looked at together."""
COLDEST = 1e-30
"""Temperature below which scores divided by it might not be finite; at it the likeliest token has all chance."""


def best(scores_RW: Tensor) -> Tensor:
    """The likeliest token of each row, the first of equals; shape [R]."""
    scores_RGc = _chunks(scores_RW, float("-inf"))
    chunk_R = scores_RGc.amax(-1).argmax(-1)
    return chunk_R * CHUNK + _select(scores_RGc, chunk_R[:, None]).argmax(-1)


@dataclass(frozen=True)
class Wishes:
    """What the sampling of each row asks, as columns [N, 1] where the scores lie."""

    temperature_N1: Tensor
    min_p_N1: Tensor
    top_p_N1: Tensor
    luck_N1: Tensor
    """From 0 to 1, float64."""
    top_k_N1: Tensor
    """0: all."""
    warm: bool = True
    """False where every temperature is 1, which saves a division of the whole vocabulary."""

    @classmethod
    def of(cls, params: Sequence[SamplingParams], lucks: Sequence[float], device: torch.device) -> "Wishes":
        """Of requests."""
        rows = [(p.temperature, p.min_p, p.top_p, luck) for p, luck in zip(params, lucks, strict=True)]
        shares = torch.tensor(rows, dtype=torch.float64, device=device)
        top_k_N1 = torch.tensor([[max(p.top_k, 0)] for p in params], device=device)
        temperature_N1, min_p_N1, top_p_N1, luck_N1 = shares.split(1, 1)
        warm = any(p.temperature != 1 for p in params)
        return cls(temperature_N1, min_p_N1, top_p_N1, luck_N1, top_k_N1, warm)

    def __len__(self) -> int:
        return self.luck_N1.shape[0]

    def rows(self, some: slice) -> "Wishes":
        """Of some rows."""
        return Wishes(
            self.temperature_N1[some],
            self.min_p_N1[some],
            self.top_p_N1[some],
            self.luck_N1[some],
            self.top_k_N1[some],
            self.warm,
        )

    def divisor(self) -> Tensor:
        """The temperature, float32, never so small that scores divided by it are not finite."""
        return self.temperature_N1.clamp(min=COLDEST).float()


def draw(scores_NW: Tensor, params: Sequence[SamplingParams], lucks: Sequence[float]) -> list[int]:
    """A token of each row."""
    token_ids = [0] * len(params)
    for cuts, method in ((False, _draw_any), (True, _draw_best)):
        rows = [i for i, p in enumerate(params) if (p.top_k > 0 or p.top_p < 1 or p.min_p > 0) == cuts]
        if rows:
            part_NW = scores_NW if len(rows) == len(params) else scores_NW[rows]
            drawn = method(part_NW, [params[i] for i in rows], [lucks[i] for i in rows])
            for i, token_id in zip(rows, drawn, strict=True):
                token_ids[i] = token_id
    return token_ids


def _draw_any(scores_NW: Tensor, params: Sequence[SamplingParams], lucks: Sequence[float]) -> list[int]:
    drawn: list[int] = draw_any(scores_NW, Wishes.of(params, lucks, scores_NW.device)).tolist()
    return drawn


def draw_any(scores_NW: Tensor, wishes: Wishes) -> Tensor:
    """From all tokens, in the vocabulary's order: first the chunk, then the token in it; shape [N]."""
    line_NG = _from_probabilities(_chunk_sums, scores_NW, wishes).cumsum(-1, dtype=torch.float64)
    points_N1 = wishes.luck_N1 * line_NG[:, -1:]
    chunk_N1 = _at(line_NG, line_NG[:, -1:], points_N1)
    before_N1, after_N1 = F.pad(line_NG, (1, 0)).gather(1, torch.cat((chunk_N1, chunk_N1 + 1), 1)).split(1, 1)
    scores_Nc = _select(_chunks(scores_NW, float("-inf")), chunk_N1)
    line_Nc = _softmax(scores_Nc, wishes).cumsum(-1, dtype=torch.float64)
    place_N1 = (points_N1 - before_N1) / (after_N1 - before_N1) * line_Nc[:, -1:]
    token_N1 = chunk_N1 * CHUNK + _at(line_Nc, line_Nc[:, -1:], place_N1)
    return token_N1.flatten()


def _draw_best(scores_NW: Tensor, params: Sequence[SamplingParams], lucks: Sequence[float]) -> list[int]:
    wishes = Wishes.of(params, lucks, scores_NW.device)
    token_N, beyond_N = draw_best(scores_NW, wishes)
    drawn: list[int] = token_N.tolist()
    for i, beyond in enumerate(beyond_N.tolist()):
        if beyond:
            row = slice(i, i + 1)
            drawn[i] = _draw_sorted(_softmax(scores_NW[row], wishes.rows(row)), params[i], wishes.rows(row))
    return drawn


def draw_best(scores_NW: Tensor, wishes: Wishes) -> tuple[Tensor, Tensor]:
    """From those that min_p, top_k and top_p leave, best first, [N]; and where the likeliest FEW do not suffice."""
    K = min(FEW, scores_NW.shape[1])
    scores_NK, ids_NK = _likeliest(scores_NW, K)
    peak_N1 = _from_probabilities(_peak, scores_NW, wishes)
    probs_NK = peak_N1 * ((scores_NK - scores_NK[:, :1]) / wishes.divisor()).exp()
    line_NK = probs_NK.cumsum(-1, dtype=torch.float64)
    border_N1 = _borders(probs_NK, line_NK, wishes)
    end_N1 = line_NK.gather(1, border_N1.clamp(max=K - 1))
    token_N1 = ids_NK.gather(1, _at(line_NK, end_N1, wishes.luck_N1 * end_N1))
    beyond_N1 = (border_N1 == K) & (scores_NW.shape[1] > K)
    return token_N1.flatten(), beyond_N1.flatten()


def _draw_sorted(probs_1W: Tensor, params: SamplingParams, wishes: Wishes) -> int:
    """The same where the first few are not enough.

    Tokens below (1 - top_p) / W are left out, since all of them together weigh less than what top_p cuts off. NumPy
    sorts, which has vector instructions for it; and only the values, since the drawn one leads back to its token.
    """
    probs_W = probs_1W[0].cpu().numpy()
    least = max((1 - params.top_p) / len(probs_W), params.min_p * float(probs_W.max()))
    probs_K = np.sort(probs_W[probs_W >= least])[::-1][: params.top_k or None]
    probs_1K = torch.from_numpy(probs_K.copy())[None]
    line_1K = probs_1K.cumsum(-1, dtype=torch.float64)
    alone = Wishes.of([params], wishes.luck_N1.flatten().tolist(), line_1K.device)
    border_11 = _borders(probs_1K, line_1K, alone).clamp(max=len(probs_K) - 1)
    end_11 = line_1K.gather(1, border_11)
    rank = int(_at(line_1K, end_11, alone.luck_N1 * end_11))
    equals = np.flatnonzero(probs_W == probs_K[rank])
    return int(equals[rank - np.flatnonzero(probs_K == probs_K[rank])[0]])


def _borders(probs_NK: Tensor, line_NK: Tensor, wishes: Wishes) -> Tensor:
    """The last place that min_p, top_k and top_p keep; K where that lies beyond the line."""
    K = line_NK.shape[1]
    min_p_N1, top_k_N1, top_p_N1 = wishes.min_p_N1.to(probs_NK.dtype), wishes.top_k_N1, wishes.top_p_N1
    likely_N1 = (probs_NK >= min_p_N1 * probs_NK[:, :1]).sum(-1, keepdim=True)
    top_k_N1 = torch.where((top_k_N1 > 0) & (top_k_N1 <= K), top_k_N1 - 1, K)
    last_N1 = torch.minimum(torch.where(likely_N1 < K, likely_N1 - 1, K), top_k_N1)
    # top_p counts within what the others have left; beyond the line that is taken for everything.
    mass_N1 = torch.where(last_N1 < K, line_NK.gather(1, last_N1.clamp(max=K - 1)), 1.0)
    reached_N1 = torch.searchsorted(line_NK, top_p_N1 * mass_N1)
    return torch.where(top_p_N1 < 1, torch.minimum(reached_N1, last_N1), last_N1)


def _at(line_NK: Tensor, ends_N1: Tensor, points_N1: Tensor) -> Tensor:
    """The place on each row's line, which counts up to its end, where its point lies; [N, 1]."""
    # Rounding may put a point at the very end, behind which only tokens of no length lie.
    last_N1 = torch.searchsorted(line_NK, ends_N1.contiguous())
    return torch.minimum(torch.searchsorted(line_NK, points_N1, right=True), last_N1)


def _likeliest(scores_NW: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """The K best of each row, best first, and their ids: they lie in the K chunks with the best maxima."""
    scores_NGc = _chunks(scores_NW, float("-inf"))
    maxima_NG = scores_NGc.amax(-1)
    # Chunks in the vocabulary's order.
    chunk_Nk = maxima_NG.topk(min(K, maxima_NG.shape[1])).indices.sort(-1).values
    top = _select(scores_NGc, chunk_Nk).topk(K)
    return top.values, chunk_Nk.gather(1, top.indices // CHUNK) * CHUNK + top.indices % CHUNK


def _from_probabilities(function: Callable[[Tensor], Tensor], scores_NW: Tensor, wishes: Wishes) -> Tensor:
    """What `function` makes of all rows' probabilities, which are never held all together."""
    # As many rows at a time as keep all threads busy and stay in the cores' caches.
    size = torch.get_num_threads() if scores_NW.device.type == "cpu" else len(wishes)
    blocks = [slice(first, first + size) for first in range(0, len(wishes), size)]
    return torch.cat([function(_softmax(scores_NW[block], wishes.rows(block))) for block in blocks])


def _chunk_sums(probs_NW: Tensor) -> Tensor:
    return _chunks(probs_NW, 0.0).sum(-1)


def _peak(probs_NW: Tensor) -> Tensor:
    return probs_NW.amax(-1, keepdim=True)


def _softmax(scores_NW: Tensor, wishes: Wishes) -> Tensor:
    if wishes.warm:
        scores_NW = scores_NW / wishes.divisor()
    return scores_NW.softmax(-1)


def _chunks(values_NW: Tensor, filler: float) -> Tensor:
    """[N, W / CHUNK, CHUNK], the last chunk filled up."""
    missing = -values_NW.shape[1] % CHUNK
    whole_NW = F.pad(values_NW, (0, missing), value=filler) if missing else values_NW
    chunks_NGc: Tensor = whole_NW.unflatten(1, (-1, CHUNK))
    return chunks_NGc


def _select(values_NGc: Tensor, chunk_Nk: Tensor) -> Tensor:
    """Some chunks of each row, end to end: [N, k · CHUNK]."""
    N, G = values_NGc.shape[:2]
    first_N1 = torch.arange(0, N * G, G, device=chunk_Nk.device)[:, None]
    return values_NGc.flatten(0, 1).index_select(0, (chunk_Nk + first_N1).flatten()).view(N, -1)
