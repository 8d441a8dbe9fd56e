"""AdamW and Muon over float32 master weights; the model itself may compute in bfloat16."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from coderv2.errors import BadCheckpoint
from coderv2.training.config import OptimConfig

# Odd polynomial that drives singular values towards 1, tuned for few steps (Jordan et al. 2024).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


class Optimiser:
    """Gradients gather in float32 masters; `step` moves the masters and rounds them into the model."""

    def __init__(self, model: nn.Module, config: OptimConfig) -> None:
        self._config = config
        self._weights = dict(model.named_parameters())
        self._masters = {name: _master(weight) for name, weight in self._weights.items()}
        matrices = [m for name, m in self._masters.items() if is_inner_matrix(name, m)]
        others = [m for name, m in self._masters.items() if not is_inner_matrix(name, m)]
        betas = config.beta1, config.beta2
        groups = [
            {"params": [m for m in others if m.dim() > 1], "weight_decay": config.weight_decay},
            {"params": [m for m in others if m.dim() == 1], "weight_decay": 0.0},
        ]
        self._parts: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=betas), config.lr),
            (Muon(matrices, config.muon_lr, config.momentum, config.weight_decay), config.muon_lr),
        ]

    def gather(self) -> None:
        """Adds the model's gradients to the masters' and clears the model's."""
        for name, weight in self._weights.items():
            if weight.grad is not None:
                grad = self._masters[name].grad
                self._masters[name].grad = weight.grad.float() if grad is None else grad.add_(weight.grad)
                weight.grad = None

    def scale_gradients(self, factor: float) -> float:
        """Multiplies the gathered gradients by `factor`; returns their norm after that."""
        grads = [master.grad for master in self._masters.values() if master.grad is not None]
        torch._foreach_mul_(grads, factor)
        return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))))

    def step(self, rate: float) -> None:
        """One update at `rate` times the peak rates; the gradients are gone afterwards."""
        for optimiser, peak in self._parts:
            for group in optimiser.param_groups:
                group["lr"] = peak * rate
            optimiser.step()
        self.forget()
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(self._masters[name])

    def forget(self) -> None:
        """Drops the gathered gradients."""
        for master in self._masters.values():
            master.grad = None

    def state(self) -> dict[str, Any]:
        """Everything that `load` needs, as plain tensors and numbers."""
        masters = {name: master.detach() for name, master in self._masters.items()}
        return {"masters": masters, "parts": [optimiser.state_dict() for optimiser, _ in self._parts]}

    def load(self, state: dict[str, Any]) -> None:
        """Rates, decay and momentum stay those of this optimiser. Raises BadCheckpoint for another model's state."""
        if _shapes(state["masters"]) != _shapes(self._masters):
            raise BadCheckpoint(
                "the run's state is that of a model of another shape; remove it to start over"
            )
        with torch.no_grad():
            for name, master in self._masters.items():
                master.copy_(state["masters"][name])
                self._weights[name].copy_(master)
        for (optimiser, _), saved in zip(self._parts, state["parts"], strict=True):
            ours = optimiser.state_dict()["param_groups"]
            optimiser.load_state_dict({**saved, "param_groups": ours})


def is_inner_matrix(name: str, weight: Tensor) -> bool:
    """Whether Muon moves it: matrices between hidden states, but not embedding, head and router."""
    return weight.dim() > 1 and not name.endswith(("embed_tokens", "lm_head", "mlp.gate"))


def learning_rate(config: OptimConfig, step: int, progress: float) -> float:
    """Share of the peak rate: linear warm-up, then a cosine of the run's progress (0 to 1) down to `final`."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return warm * (config.final + (1 - config.final) * cosine)


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal before it is applied (Jordan et al. 2024). Stacks [E, …] are E matrices."""

    def __init__(self, matrices: Iterable[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for matrices in _by_shape(group["params"]):
                directions = [self._direction(matrix, group["momentum"]) for matrix in matrices]
                sizes = [len(direction) for direction in directions]
                orthogonal = newton_schulz(torch.cat(directions)).split(sizes)
                for matrix, update in zip(matrices, orthogonal, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(update.view_as(matrix), alpha=-group["lr"] * _width_factor(matrix))

    def _direction(self, matrix: Tensor, momentum: float) -> Tensor:
        """Nesterov momentum of one parameter as a stack of matrices [n, rows, columns]."""
        state = self.state[matrix]
        assert matrix.grad is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(matrix)
        state["momentum"].lerp_(matrix.grad, 1 - momentum)
        direction = matrix.grad.lerp(state["momentum"], momentum)
        return direction.view(-1, *matrix.shape[-2:])


def newton_schulz(stack: Tensor) -> Tensor:
    """About the nearest orthogonal matrix of each in [n, rows, columns]; singular values end within 0.7 to 1.2."""
    a, b, c = NEWTON_SCHULZ
    tall = stack.shape[1] > stack.shape[2]
    x = (stack.mT if tall else stack).bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    nearest: Tensor = (x.mT if tall else x).to(stack.dtype)
    return nearest


def _width_factor(matrix: Tensor) -> float:
    return math.sqrt(max(1.0, matrix.shape[-2] / matrix.shape[-1]))


def _by_shape(matrices: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Those with a gradient, grouped by the shape of one matrix, so that each group is one batched product."""
    groups: defaultdict[tuple[int, ...], list[Tensor]] = defaultdict(list)
    for matrix in matrices:
        if matrix.grad is not None:
            groups[tuple(matrix.shape[-2:])].append(matrix)
    return iter(groups.values())


def _shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in weights.items()}


def _master(weight: Tensor) -> Tensor:
    return weight.detach().clone().float()
