"""From a token's affinities to its experts (spec §5)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Routing:
    """How a model chooses: the `top` best experts, from the `kept` best of `groups` groups."""

    top: int
    groups: int
    kept: int
    """As many as `groups`: all of them."""
    scaling: float
    """What the chosen affinities are multiplied with."""
    renormalise: bool
    """Chosen affinities are made to add up to 1 instead."""

    @property
    def factor(self) -> float:
        """As published: renormalised weights do not also get the factor."""
        return 1.0 if self.renormalise else self.scaling


def choose(scores_TE: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
    """Weights and ids of each token's experts, both [T, K]: the softmax scores themselves, scaled."""
    if routing.kept < routing.groups:
        scores_TE = _best_groups_only(scores_TE, routing)
    weights_TK, experts_TK = scores_TE.topk(routing.top, dim=-1)
    if routing.renormalise:
        return weights_TK / (weights_TK.sum(-1, keepdim=True) + 1e-20), experts_TK
    return weights_TK * routing.factor, experts_TK


def _best_groups_only(scores_TE: Tensor, routing: Routing) -> Tensor:
    """Scores with 0 outside each token's best groups; a group is as good as its best expert."""
    by_group = scores_TE.unflatten(-1, (routing.groups, -1))
    best = by_group.amax(-1).topk(routing.kept, dim=-1).indices
    keep = torch.zeros(by_group.shape[:2], dtype=torch.bool, device=scores_TE.device).scatter_(1, best, True)
    kept_TE: Tensor = by_group.masked_fill(~keep[..., None], 0.0).flatten(-2)
    return kept_TE
