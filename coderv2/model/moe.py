"""DeepSeekMoE: routers, routed and shared experts, and the balance loss of training (spec §5, §6)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from coderv2.kernels.ops import Operand
from coderv2.kernels.routing import Routing
from coderv2.model.batch import Batch, RouterRecord
from coderv2.model.config import ModelConfig
from coderv2.model.parallel import Split

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
    """The routed experts of a layer, stacked: all of them, or those of one rank."""

    def __init__(self, config: ModelConfig, split: Split) -> None:
        super().__init__()
        (E, F), D = split.stack(config), config.hidden_size
        self.gate_proj = nn.Parameter(torch.empty(E, F, D))
        self.up_proj = nn.Parameter(torch.empty(E, F, D))
        self.down_proj = nn.Parameter(torch.empty(E, D, F))

    def weights(self) -> Triple:
        """Gate, up, down."""
        return self.gate_proj, self.up_proj, self.down_proj


class MixtureOfExperts(nn.Module):
    """Shared experts plus each token's best K routed ones."""

    def __init__(self, config: ModelConfig, split: Split) -> None:
        super().__init__()
        self.config, self.split = config, split
        self.routing = routing(config)
        self.gate = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.experts = Experts(config, split)
        width = config.n_shared_experts * config.moe_intermediate_size
        self.shared_experts = Mlp(config, split.share(width, "the shared experts' width"))

    def forward(self, x_TD: Tensor, batch: Batch) -> Tensor:
        """[T, D]; the routed factor never touches the shared experts."""
        scores_TE, weights_TK, experts_TK = batch.ops.route(x_TD, self.gate, self.routing)
        if batch.router_log is not None:
            batch.router_log.append(RouterRecord(scores_TE, experts_TK))
        routed, shared = self.experts.weights(), self.shared_experts.weights()
        experts_TK = self.split.own_experts(experts_TK, self.config)
        return batch.ops.mixture(x_TD, weights_TK, experts_TK, routed, shared)


def routing(config: ModelConfig) -> Routing:
    """How this model chooses experts."""
    limited = config.topk_method == "group_limited_greedy"
    return Routing(
        top=config.num_experts_per_tok,
        groups=config.n_group or 1 if limited else 1,
        kept=config.topk_group or 1 if limited else 1,
        scaling=config.routed_scaling_factor,
        renormalise=config.norm_topk_prob and config.num_experts_per_tok > 1,
    )


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
