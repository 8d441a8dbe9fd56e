"""DeepSeekMoE: routers, routed and shared experts, and the balance loss of training (spec §5, §6)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from coderv2.kernels.ops import Operand
from coderv2.model.batch import Batch, RouterRecord
from coderv2.model.config import ModelConfig

Triple = tuple[Operand, Operand, Operand]


class Mlp(nn.Module):
    """The plain feed-forward: layer 0, and the shared experts as one MLP of their joint width."""

    def __init__(self, config: ModelConfig, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Parameter(torch.empty(width, config.hidden_size))
        self.up_proj = nn.Parameter(torch.empty(width, config.hidden_size))
        self.down_proj = nn.Parameter(torch.empty(config.hidden_size, width))

    def weights(self) -> Triple:
        """Gate, up, down."""
        return self.gate_proj, self.up_proj, self.down_proj

    def forward(self, x_TD: Tensor, batch: Batch) -> Tensor:
        """[T, D]."""
        out_TD: Tensor = batch.ops.swiglu(x_TD, *self.weights())
        return out_TD


class Experts(nn.Module):
    """All routed experts of a layer, stacked."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        E, F, D = config.n_routed_experts, config.moe_intermediate_size, config.hidden_size
        self.gate_proj = nn.Parameter(torch.empty(E, F, D))
        self.up_proj = nn.Parameter(torch.empty(E, F, D))
        self.down_proj = nn.Parameter(torch.empty(E, D, F))

    def weights(self) -> Triple:
        """Gate, up, down."""
        return self.gate_proj, self.up_proj, self.down_proj


class MixtureOfExperts(nn.Module):
    """Shared experts plus each token's best K routed ones."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.gate = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.experts = Experts(config)
        self.shared_experts = Mlp(config, config.n_shared_experts * config.moe_intermediate_size)

    def forward(self, x_TD: Tensor, batch: Batch) -> Tensor:
        """[T, D]; the routed factor never touches the shared experts."""
        scores_TE = batch.ops.router(x_TD, self.gate)
        weights_TK, experts_TK = choose(scores_TE, self.config)
        if batch.router_log is not None:
            batch.router_log.append(RouterRecord(scores_TE, experts_TK))
        routed, shared = self.experts.weights(), self.shared_experts.weights()
        return batch.ops.mixture(x_TD, weights_TK, experts_TK, routed, shared)


def choose(scores_TE: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Weights and ids of each token's experts, both [T, K]: the softmax scores themselves, scaled (spec §5)."""
    if config.topk_method == "group_limited_greedy":
        scores_TE = _best_groups_only(scores_TE, config)
    weights_TK, experts_TK = scores_TE.topk(config.num_experts_per_tok, dim=-1)
    # As published: renormalised weights do not also get the factor.
    if config.norm_topk_prob and config.num_experts_per_tok > 1:
        return weights_TK / (weights_TK.sum(-1, keepdim=True) + 1e-20), experts_TK
    return weights_TK * config.routed_scaling_factor, experts_TK


def _best_groups_only(scores_TE: Tensor, config: ModelConfig) -> Tensor:
    """Scores with 0 outside each token's `topk_group` best groups; a group is as good as its best expert."""
    groups, kept = config.n_group or 1, config.topk_group or 1
    by_group = scores_TE.unflatten(-1, (groups, -1))
    best = by_group.amax(-1).topk(kept, dim=-1).indices
    keep = torch.zeros(by_group.shape[:2], dtype=torch.bool, device=scores_TE.device).scatter_(1, best, True)
    kept_TE: Tensor = by_group.masked_fill(~keep[..., None], 0.0).flatten(-2)
    return kept_TE


def balance_loss(record: RouterRecord, starts: Sequence[int], *, alpha: float) -> Tensor:
    """Expert-level balance, mean over sequences of α·Σ f·P; α when perfectly even (V2 report eq. 23–25).

    f counts choices and carries no gradient; P is the mean affinity and does.
    """
    losses: list[Tensor] = [
        (_frequency(record, start, end) * record.scores_TE[start:end].mean(0)).sum()
        for start, end in pairwise(starts)
        if end > start
    ]
    loss: Tensor = alpha * torch.stack(losses).mean()
    return loss


def _frequency(record: RouterRecord, start: int, end: int) -> Tensor:
    chosen, E = record.experts_TK[start:end], record.scores_TE.shape[1]
    share_E: Tensor = torch.bincount(chosen.flatten(), minlength=E) * (E / chosen.numel())
    return share_E
