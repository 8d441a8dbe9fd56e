"""How tokens are drawn from logits, in plain PyTorch: the definition of right, whoever computes it.

Every token has a weight: e^((score - peak) / temperature), in units of 2^-35 and rounded to a whole number. So sums of
weights are exact in any order (below 2^53 for a vocabulary of a quarter million), and the power is written in products
and sums that are rounded one by one: what is drawn does not depend on the device, on the instruction set, on the rows
beside a row, or on how few tokens a faster way of computing looks at.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

ONE = 2.0**35
"""The weight of the likeliest token."""
COLDEST = 1e-30
"""Lower temperatures count as this one; at it the likeliest tokens have all chance."""
_AT_ONCE = 32
"""Rows that are drawn at once."""
_EACH = 50
"""Bytes that a row takes meanwhile for each token of the vocabulary, about."""
_LOG2_E = 1.4426950408889634
_LEAST = -36.0
"""The power of two from which on everything weighs nothing."""
_POLYNOMIAL = (1.32647273e-3, 9.67151299e-3, 5.55073358e-2, 0.240222424, 0.693147004, 1.0)
"""2^x for x from -0.5 to 0.5, the highest power first; off by 1e-7 at most."""


class Rule(NamedTuple):
    """How one row's token is drawn."""

    temperature: float = 1.0
    top_k: float = 0
    """Keep this many heaviest tokens, of equals the first; 0: all."""
    top_p: float = 1.0
    """Keep the fewest heaviest that hold this share of what min_p and top_k leave."""
    min_p: float = 0.0
    """Keep those that weigh at least this share of the heaviest."""
    luck: float = 0.0
    """From 0 to below 1: the place on the line along which the kept tokens lie, each as long as it is heavy."""

    @property
    def cuts(self) -> bool:
        """True where not all tokens are kept; these lie heaviest first, all of them in the vocabulary's order."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


def peaks(scores_NW: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row the likeliest token, of equals the first (NaN counts as -inf), and whether all scores are finite."""
    known_NW = scores_NW.masked_fill(scores_NW.isnan(), float("-inf"))
    return known_NW.argmax(-1), scores_NW.isfinite().all(-1)


def draw(scores_NW: Tensor, rules: Sequence[Rule]) -> Tensor:
    """A token of each row of float32 scores, [N]; the likeliest where that one's score is not finite."""
    best_N, _ = peaks(scores_NW)
    rules_5N = torch.tensor(rules, dtype=torch.float64, device=scores_NW.device).T
    return drawn(scores_NW, best_N, rules_5N, cuts=any(rule.cuts for rule in rules))


def drawn(scores_NW: Tensor, best_N: Tensor, rules_5N: Tensor, *, cuts: bool) -> Tensor:
    """The same by rules in float64 that lie beside the scores, asking nothing of the device.

    `best_N` are the rows' likeliest tokens. With `cuts` False no rule may cut: nothing is sorted then.
    """
    rows = (
        scores_NW.split(_AT_ONCE),
        best_N[:, None].split(_AT_ONCE),
        rules_5N[..., None].split(_AT_ONCE, 1),
    )
    return torch.cat([_drawn(*some, cuts=cuts) for some in zip(*rows, strict=True)]).flatten()


def bytes_for(rows: int, W: int) -> int:
    """What `drawn` takes meanwhile."""
    return min(rows, _AT_ONCE) * W * _EACH


def _drawn(scores_NW: Tensor, best_N1: Tensor, rules_5N1: Tensor, *, cuts: bool) -> Tensor:
    peak_N1 = scores_NW.gather(1, best_N1)
    temperature_N1, top_k_N1, top_p_N1, min_p_N1, luck_N1 = rules_5N1
    weights_NW = weigh(scores_NW, peak_N1, temperature_N1)
    if cuts:
        cuts_N1 = (top_k_N1 > 0) | (top_p_N1 < 1) | (min_p_N1 > 0)
        sorted_NW, ids_NW = weights_NW.sort(dim=-1, descending=True, stable=True)
        line_NW = torch.where(cuts_N1, sorted_NW, weights_NW).cumsum(-1)
        end_N1 = torch.where(cuts_N1, _end(line_NW, sorted_NW, rules_5N1), line_NW[:, -1:])
        place_N1 = _place(line_NW, luck_N1 * end_N1)
        drawn_N1 = torch.where(cuts_N1, ids_NW.gather(1, place_N1), place_N1)
    else:
        line_NW = weights_NW.cumsum(-1)
        drawn_N1 = _place(line_NW, luck_N1 * line_NW[:, -1:])
    return torch.where(peak_N1.isfinite(), drawn_N1, best_N1)


def _place(line_NW: Tensor, point_N1: Tensor) -> Tensor:
    return torch.searchsorted(line_NW, point_N1, right=True).clamp(max=line_NW.shape[1] - 1)


def _end(line_NW: Tensor, sorted_NW: Tensor, rules_5N1: Tensor) -> Tensor:
    """How far the kept tokens reach on a line that has the heaviest first, [N, 1]."""
    W = line_NW.shape[1]
    _, top_k_N1, top_p_N1, min_p_N1, _ = rules_5N1
    likely_N1 = (sorted_NW >= min_p_N1 * ONE).sum(-1, keepdim=True)
    few_N1 = torch.where(top_k_N1 > 0, top_k_N1.clamp(max=W), W).long()
    mass_N1 = line_NW.gather(1, torch.minimum(likely_N1, few_N1).clamp(min=1) - 1)
    # A top_p of 1 reaches the mass itself.
    return line_NW.gather(1, torch.searchsorted(line_NW, top_p_N1 * mass_N1).clamp(max=W - 1))


def weigh(scores_NW: Tensor, peak_N1: Tensor, temperature_N1: Tensor) -> Tensor:
    """Whole numbers from 0 to ONE, in float64; NaN weighs nothing."""
    scale_N1 = (_LOG2_E / temperature_N1.clamp(min=COLDEST)).float()
    x_NW = (scores_NW - peak_N1) * scale_N1
    x_NW = torch.where(x_NW > _LEAST, x_NW, _LEAST)
    whole_NW = x_NW.round()
    rest_NW = x_NW - whole_NW
    power_NW = torch.full_like(rest_NW, _POLYNOMIAL[0])
    for coefficient in _POLYNOMIAL[1:]:
        power_NW = power_NW * rest_NW + coefficient
    two_to_NW = ((whole_NW.int() + 127) << 23).view(torch.float32)
    return (power_NW * two_to_NW * ONE).round().double()
