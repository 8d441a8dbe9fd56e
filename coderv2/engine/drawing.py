"""From scores to drawn tokens: temperature, min_p, top_k, top_p, and one number from 0 to 1 for each row.

The kept tokens lie along a line, each as long as it is likely; a row's token is the one at its number. No operation
mixes rows: a row's token does not depend on the others.

A vocabulary of 100,000 is dear to sort and to add up. So it is cut into chunks: all of it only goes through softmax,
and what follows looks at the chunks that can hold one of the likeliest tokens, or the token at the number.
"""

from collections.abc import Callable, Sequence

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
    """From all tokens, in the vocabulary's order: first the chunk, then the token in it."""
    line_NG = _from_probabilities(_chunk_sums, scores_NW, params).cumsum(-1, dtype=torch.float64)
    points_N1 = _column(lucks, line_NG, torch.float64) * line_NG[:, -1:]
    chunk_N1 = _at(line_NG, line_NG[:, -1:], points_N1)
    before_N1, after_N1 = F.pad(line_NG, (1, 0)).gather(1, torch.cat((chunk_N1, chunk_N1 + 1), 1)).split(1, 1)
    scores_Nc = _select(_chunks(scores_NW, float("-inf")), chunk_N1)
    line_Nc = _softmax(scores_Nc, params).cumsum(-1, dtype=torch.float64)
    place_N1 = (points_N1 - before_N1) / (after_N1 - before_N1) * line_Nc[:, -1:]
    token_N1 = chunk_N1 * CHUNK + _at(line_Nc, line_Nc[:, -1:], place_N1)
    return token_N1.flatten().tolist()


def _draw_best(scores_NW: Tensor, params: Sequence[SamplingParams], lucks: Sequence[float]) -> list[int]:
    """From those that min_p, top_k and top_p leave, best first."""
    K = min(FEW, scores_NW.shape[1])
    scores_NK, ids_NK = _likeliest(scores_NW, K)
    peak_N1 = _from_probabilities(_peak, scores_NW, params)
    probs_NK = peak_N1 * ((scores_NK - scores_NK[:, :1]) / _temperatures(params, scores_NK)).exp()
    line_NK = probs_NK.cumsum(-1, dtype=torch.float64)
    border_N1 = _borders(probs_NK, line_NK, params)
    end_N1 = line_NK.gather(1, border_N1.clamp(max=K - 1))
    points_N1 = _column(lucks, line_NK, torch.float64) * end_N1
    drawn: list[int] = ids_NK.gather(1, _at(line_NK, end_N1, points_N1)).flatten().tolist()
    for i, border in enumerate(border_N1.flatten().tolist()):
        if border == K < scores_NW.shape[1]:
            drawn[i] = _draw_sorted(_softmax(scores_NW[i : i + 1], params[i : i + 1]), params[i], lucks[i])
    return drawn


def _draw_sorted(probs_1W: Tensor, params: SamplingParams, luck: float) -> int:
    """The same where the first few are not enough.

    Tokens below (1 - top_p) / W are left out, since all of them together weigh less than what top_p cuts off. NumPy
    sorts, which has vector instructions for it; and only the values, since the drawn one leads back to its token.
    """
    probs_W = probs_1W[0].cpu().numpy()
    least = max((1 - params.top_p) / len(probs_W), params.min_p * float(probs_W.max()))
    probs_K = np.sort(probs_W[probs_W >= least])[::-1][: params.top_k or None]
    probs_1K = torch.from_numpy(probs_K.copy())[None]
    line_1K = probs_1K.cumsum(-1, dtype=torch.float64)
    border_11 = _borders(probs_1K, line_1K, [params]).clamp(max=len(probs_K) - 1)
    end_11 = line_1K.gather(1, border_11)
    rank = int(_at(line_1K, end_11, luck * end_11))
    equals = np.flatnonzero(probs_W == probs_K[rank])
    return int(equals[rank - np.flatnonzero(probs_K == probs_K[rank])[0]])


def _borders(probs_NK: Tensor, line_NK: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """The last place that min_p, top_k and top_p keep; K where that lies beyond the line."""
    K = line_NK.shape[1]
    min_p_N1 = _column([p.min_p for p in params], probs_NK, probs_NK.dtype)
    likely_N1 = (probs_NK >= min_p_N1 * probs_NK[:, :1]).sum(-1, keepdim=True)
    top_k_N1 = _column([p.top_k - 1 if 0 < p.top_k <= K else K for p in params], line_NK, torch.long)
    last_N1 = torch.minimum(torch.where(likely_N1 < K, likely_N1 - 1, K), top_k_N1)
    # top_p counts within what the others have left; beyond the line that is taken for everything.
    mass_N1 = torch.where(last_N1 < K, line_NK.gather(1, last_N1.clamp(max=K - 1)), 1.0)
    top_p_N1 = _column([p.top_p for p in params], line_NK, torch.float64)
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


def _from_probabilities(
    function: Callable[[Tensor], Tensor], scores_NW: Tensor, params: Sequence[SamplingParams]
) -> Tensor:
    """What `function` makes of all rows' probabilities, which are never held all together."""
    # As many rows at a time as keep all threads busy and stay in the cores' caches.
    size = torch.get_num_threads() if scores_NW.device.type == "cpu" else len(params)
    blocks = [slice(first, first + size) for first in range(0, len(params), size)]
    return torch.cat([function(_softmax(scores_NW[block], params[block])) for block in blocks])


def _chunk_sums(probs_NW: Tensor) -> Tensor:
    return _chunks(probs_NW, 0.0).sum(-1)


def _peak(probs_NW: Tensor) -> Tensor:
    return probs_NW.amax(-1, keepdim=True)


def _softmax(scores_NW: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    if any(p.temperature != 1 for p in params):
        scores_NW = scores_NW / _temperatures(params, scores_NW)
    return scores_NW.softmax(-1)


def _temperatures(params: Sequence[SamplingParams], like: Tensor) -> Tensor:
    return _column([max(p.temperature, COLDEST) for p in params], like, torch.float32)


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


def _column(values: Sequence[float], like: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=like.device)[:, None]
