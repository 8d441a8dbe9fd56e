"""From scores to drawn tokens: temperature, min_p, top_k, top_p, and one number from 0 to 1 for each row.

The kept tokens lie along a line, each as long as it is likely; a row's token is the one at its number. Rows go through
each operation together, but no operation mixes them: a row's token does not depend on the others.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from coderv2.engine.request import SamplingParams

FEW = 64
"""Likeliest tokens among which top_k and top_p nearly always end; where they do not, all tokens are looked at."""
BLOCK = 1 << 15
"""Numbers that go through an operation together: they and what is made of them stay in a core's cache."""


def draw(scores_NW: Tensor, params: Sequence[SamplingParams], lucks: Sequence[float]) -> list[int]:
    """A token of each row."""
    N, W = scores_NW.shape
    size = max(1, BLOCK // W) if scores_NW.device.type == "cpu" else N
    blocks = [slice(first, first + size) for first in range(0, N, size)]
    return [i for block in blocks for i in _draw_block(scores_NW[block], params[block], lucks[block])]


def _draw_block(scores_NW: Tensor, params: Sequence[SamplingParams], lucks: Sequence[float]) -> list[int]:
    probs_NW = _probabilities(scores_NW, params)
    token_ids = [0] * len(params)
    for cut, method in ((False, _draw_any), (True, _draw_best)):
        rows = [i for i, p in enumerate(params) if (p.top_k > 0 or p.top_p < 1) == cut]
        if rows:
            whole = len(rows) == len(params)
            part_NW = probs_NW if whole else probs_NW[rows]
            drawn = method(part_NW, [params[i] for i in rows], [lucks[i] for i in rows])
            for i, token_id in zip(rows, drawn, strict=True):
                token_ids[i] = token_id
    return token_ids


def _probabilities(scores_NW: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """After temperature and min_p; what min_p leaves does not sum to 1."""
    # With the maximum taken off, no small temperature makes an infinity, unless float32 rounds it to 0.
    tiny = torch.finfo(torch.float32).tiny
    temperature_N1 = _column([max(p.temperature, tiny) for p in params], scores_NW, torch.float32)
    probs_NW = ((scores_NW - scores_NW.amax(-1, keepdim=True)) / temperature_N1).softmax(-1)
    if any(p.min_p for p in params):
        min_p_N1 = _column([p.min_p for p in params], scores_NW, torch.float32)
        probs_NW = probs_NW * (probs_NW >= min_p_N1 * probs_NW.amax(-1, keepdim=True))
    return probs_NW


def _draw_any(probs_NW: Tensor, params: Sequence[SamplingParams], lucks: Sequence[float]) -> list[int]:
    """From all tokens, in the vocabulary's order."""
    line_NW = probs_NW.cumsum(-1, dtype=torch.float64)
    return _at(line_NW, line_NW[:, -1:], lucks).flatten().tolist()


def _draw_best(probs_NW: Tensor, params: Sequence[SamplingParams], lucks: Sequence[float]) -> list[int]:
    """From those that top_k and top_p leave, best first."""
    K = min(FEW, probs_NW.shape[1])
    top = probs_NW.topk(K)
    line_NK = top.values.cumsum(-1, dtype=torch.float64)
    border_N1 = _borders(line_NK, _masses(probs_NW, params), params)
    place_N1 = _at(line_NK, line_NK.gather(1, border_N1.clamp(max=K - 1)), lucks)
    drawn: list[int] = top.indices.gather(1, place_N1).flatten().tolist()
    for i, border in enumerate(border_N1.flatten().tolist()):
        if border == K < probs_NW.shape[1]:
            drawn[i] = _draw_sorted(probs_NW[i : i + 1], params[i], lucks[i])
    return drawn


def _draw_sorted(probs_1W: Tensor, params: SamplingParams, luck: float) -> int:
    """The same where the first few are not enough.

    Tokens below (1 - top_p) · mass / W are left out, since all of them together weigh less than what top_p cuts off:
    the sort, which is the dearest step for a vocabulary of 100,000, only sees those that may be kept.
    """
    mass_11 = _masses(probs_1W, [params])
    if 0 < params.top_k < probs_1W.shape[1]:
        probs_1K, ids_1K = probs_1W.topk(params.top_k)
    else:
        ids_K = (probs_1W[0] > (1 - params.top_p) * mass_11[0] / probs_1W.shape[1]).nonzero().flatten()
        probs_1K, order_1K = probs_1W[:, ids_K].sort(stable=True, descending=True)
        ids_1K = ids_K[order_1K]
    line_1K = probs_1K.cumsum(-1, dtype=torch.float64)
    border_11 = _borders(line_1K, mass_11, [params]).clamp(max=line_1K.shape[1] - 1)
    return int(ids_1K[0, int(_at(line_1K, line_1K.gather(1, border_11), [luck]))])


def _borders(line_NK: Tensor, mass_N1: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """The last place that top_k and top_p keep; K where that lies beyond the line."""
    K = line_NK.shape[1]
    last_N1 = _column([p.top_k - 1 if 0 < p.top_k <= K else K for p in params], line_NK, torch.long)
    # top_p counts within what top_k has left.
    kept_N1 = torch.where(last_N1 < K, line_NK.gather(1, last_N1.clamp(max=K - 1)), mass_N1)
    top_p_N1 = _column([p.top_p for p in params], line_NK, torch.float64)
    reached_N1 = torch.searchsorted(line_NK, top_p_N1 * kept_N1)
    return torch.where(top_p_N1 < 1, torch.minimum(reached_N1, last_N1), last_N1)


def _masses(probs_NW: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """The rows' sums, [N, 1]: 1, save where min_p has taken something."""
    mass_N1 = torch.ones(len(params), 1, dtype=torch.float64, device=probs_NW.device)
    for i, p in enumerate(params):
        if p.min_p:
            mass_N1[i] = probs_NW[i].cumsum(-1, dtype=torch.float64)[-1]
    return mass_N1


def _at(line_NK: Tensor, ends_N1: Tensor, lucks: Sequence[float]) -> Tensor:
    """The place on each row's line, which counts up to its end, where the row's luck points; [N, 1]."""
    points_N1 = _column(lucks, line_NK, torch.float64) * ends_N1
    # Rounding may put a point at the very end, behind which only tokens of no length lie.
    last_N1 = torch.searchsorted(line_NK, ends_N1.contiguous())
    return torch.minimum(torch.searchsorted(line_NK, points_N1, right=True), last_N1)


def _column(values: Sequence[float], like: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=like.device)[:, None]
