"""What rounding costs: next tokens' distributions of a model beside those of its wide weights, on held-out text."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from coderv2.kernels.ops import Ops
from coderv2.kernels.scaled import LARGEST, Scaled, to_fp8
from coderv2.model.batch import Batch
from coderv2.model.cache import LatentCache
from coderv2.model.scale import scalable
from coderv2.model.transformer import Transformer

_PAGE = 16


@dataclass(frozen=True)
class Cost:
    """Of one way of storing weights and cache."""

    kl: float
    """Mean KL divergence of the next token's distribution, in nats."""
    perplexity: float
    perplexity_wide: float
    same_first: float
    """Share of places where both hold the same token likeliest."""
    tokens: int


def compared(p_TW: Tensor, q_TW: Tensor, targets_T: Tensor) -> Tensor:
    """Sums of: KL, the target's surprise under p and under q, whether both hold the same likeliest."""
    kl = (p_TW.exp() * (p_TW - q_TW)).sum(-1)
    nats = [-logs.gather(1, targets_T[:, None]).sum() for logs in (p_TW, q_TW)]
    same = (p_TW.argmax(-1) == q_TW.argmax(-1)).sum()
    return torch.stack([kl.sum(), *nats, same]).double()


@torch.inference_mode()
def distributions(
    model: Transformer, rows: Sequence[Sequence[int]], cache_dtype: torch.dtype | None = None
) -> Iterator[Tensor]:
    """Of each row by itself: log-probabilities after each of its tokens, [T, W].

    What attention reads has been through a cache of `cache_dtype`; None is one that loses nothing.
    """
    for row in rows:
        pages = -(-len(row) // _PAGE)
        cache = LatentCache(model.config, pages, _PAGE, cache_dtype or model.dtype, model.device)
        logits_TW: Tensor = model(Batch.cached(cache, [row], [0], [list(range(pages))], all_logits=True))
        yield logits_TW.log_softmax(-1)


def cost(wide: Iterable[Tensor], ours: Iterable[Tensor], rows: Sequence[Sequence[int]]) -> Cost:
    """Of what gave the distributions `ours`, beside the wide weights'."""
    sums, count = torch.zeros(4, dtype=torch.float64), 0
    for p_TW, q_TW, row in zip(wide, ours, rows, strict=True):
        sums += compared(p_TW[:-1], q_TW[:-1], torch.tensor(row[1:], device=p_TW.device)).cpu()
        count += len(row) - 1
    kl, nats_wide, nats, same = (sums / count).tolist()
    return Cost(kl, math.exp(nats), math.exp(nats_wide), same, count)


def rounded(model: Transformer, rule: Callable[[Tensor], Scaled]) -> Transformer:
    """A plain model in place, every matrix that a GPU would have rounded so by `rule`."""
    for module, name, parameter in list(_scalable(model)):
        _put(module, name, rule(parameter.detach()))
    return model


def to_static_fp8(model: Transformer, rows: Sequence[Sequence[int]]) -> Transformer:
    """Rounds a plain model in place as per-tensor static checkpoints are: a scale for each matrix, and one for what is
    multiplied with it, from the largest that `rows` bring. Experts of a stack share theirs."""
    largest = _largest_inputs(model, rows)
    for module, name, parameter in list(_scalable(model)):
        scale = largest[id(parameter)] / LARGEST
        _put(module, name, to_fp8(parameter.detach(), whole=True, input_scale=scale))
    return model


def _scalable(model: Transformer) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for module in model.modules():
        yield from ((module, n, p) for n, p in module.named_parameters(recurse=False) if scalable(n, p))


def _put(module: nn.Module, name: str, weight: Scaled) -> None:
    module._parameters.pop(name, None)
    setattr(module, name, weight)


@torch.inference_mode()
def _largest_inputs(model: Transformer, rows: Sequence[Sequence[int]]) -> dict[int, float]:
    """By the identity of each parameter the largest number that it was multiplied with."""
    largest: dict[int, float] = {}

    def note(x: Tensor, *weights: Tensor) -> None:
        for weight in weights if x.numel() else ():
            largest[id(weight)] = max(largest.get(id(weight), 1e-12), float(x.abs().max()))

    class Noting(Ops):
        @staticmethod
        def linear(x_TD: Tensor, weight: Tensor) -> Tensor:
            note(x_TD, weight)
            return Ops.linear(x_TD, weight)  # type: ignore[no-any-return]

        @staticmethod
        def swiglu(x_TD: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
            note(x_TD, gate, up)
            note(_hidden(x_TD, gate, up), down)
            return Ops.swiglu(x_TD, gate, up, down)  # type: ignore[no-any-return]

        @staticmethod
        def experts(x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, *stacks: Tensor) -> Tensor:
            gate, up, down = stacks
            note(x_TD, gate, up)
            for e in range(len(gate)):
                note(_hidden(x_TD[(experts_TK == e).any(-1)], gate[e], up[e]), down)
            out_TD: Tensor = Ops.experts(x_TD, weights_TK, experts_TK, *stacks)
            return out_TD

    for row in rows:
        model(replace(Batch.packed([row], device=model.device), computed_by=Noting))
    return largest


def _hidden(x_TD: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    hidden_TF: Tensor = nn.functional.silu(Ops.linear(x_TD, gate)) * Ops.linear(x_TD, up)
    return hidden_TF
