"""DeepSeekMoE: routers, routed and shared experts, and the balance loss of training (spec §5, §6)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from coderv2.kernels import offload
from coderv2.kernels.formats import Weight
from coderv2.kernels.ops import Operand, Ops
from coderv2.kernels.routing import Routing
from coderv2.model.batch import Batch, RouterRecord
from coderv2.model.config import ModelConfig
from coderv2.model.parallel import Split

Triple = tuple[Operand, Operand, Operand]
MATRICES = ("gate_proj", "up_proj", "down_proj")
"""Of every feed-forward, in this order."""


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


class ExpertsInRam(nn.Module):
    """Those of a layer's routed experts that the CPU computes, packed, while a device computes the others."""

    gate_proj: Weight
    up_proj: Weight
    down_proj: Weight

    def __init__(self, near: Sequence[int], E: int, device: torch.device, *, all_here: bool = False) -> None:
        """`near` are the numbers of those on the device, ascending, of E; the weights are put in later.

        With `all_here` those on the device lie in RAM too, so that another one can take such a place.
        """
        super().__init__()
        self.near, self.all_here = list(near), all_here
        self._link = offload.link(device)
        far = sorted(set(range(E)) - set(near))
        for name, numbers, places in (
            ("near_E", self.near, range(len(near))),
            ("far_E", far, far if all_here else range(len(far))),
        ):
            places_E = torch.full((E,), -1)
            places_E[numbers] = torch.tensor(list(places), dtype=torch.long)
            self.register_buffer(name, places_E.to(device), persistent=False)

    near_E: Tensor
    """Where each expert lies in the device's stack, or -1."""
    far_E: Tensor
    """The same for the stack in RAM."""
    near: list[int]
    """Which expert lies at each place of the device's stack."""

    def seat(self, expert: int, place: int) -> None:
        """From now on `expert` is the one at this place of the device's stack, where its weights lie already."""
        gone, self.near[place] = self.near[place], expert
        self.near_E[gone], self.far_E[gone] = -1, gone
        self.near_E[expert], self.far_E[expert] = place, -1

    def mixture(
        self,
        ops: type[Ops],
        x_TD: Tensor,
        weights_TK: Tensor,
        experts_TK: Tensor,
        near: Triple,
        shared: Triple,
    ) -> Tensor:
        """[T, D]."""
        far = self.gate_proj, self.up_proj, self.down_proj
        places = self.near_E[experts_TK], self.far_E[experts_TK]
        there = near if self.near else None
        return offload.mixture(ops, x_TD, weights_TK, *places, there, shared, far, self._link)


class Experts(nn.Module):
    """The routed experts of a layer, stacked: all of them, those of one rank, or those that are not in RAM."""

    def __init__(self, config: ModelConfig, split: Split) -> None:
        super().__init__()
        (E, F), D = split.stack(config), config.hidden_size
        self.gate_proj = nn.Parameter(torch.empty(E, F, D))
        self.up_proj = nn.Parameter(torch.empty(E, F, D))
        self.down_proj = nn.Parameter(torch.empty(E, D, F))
        self.in_ram: ExpertsInRam | None = None

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
        self.shared_experts = Mlp(config, len(split.columns(width, "the shared experts' width")))
        self.used_E: Tensor | None = None
        """How often each expert was chosen, where somebody counts (`usage`)."""

    def forward(self, x_TD: Tensor, batch: Batch) -> Tensor:
        """[T, D]; the routed factor never touches the shared experts."""
        scores_TE, weights_TK, experts_TK = batch.ops.route(x_TD, self.gate, self.routing)
        if batch.router_log is not None:
            batch.router_log.append(RouterRecord(scores_TE, experts_TK))
        if self.used_E is not None:
            chosen_N = experts_TK.flatten()
            self.used_E.index_add_(0, chosen_N, torch.ones_like(chosen_N))
        routed, shared = self.experts.weights(), self.shared_experts.weights()
        if (ram := self.experts.in_ram) is not None:
            return ram.mixture(batch.ops, x_TD, weights_TK, experts_TK, routed, shared)
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
