"""int4 of one layer from what was seen to flow into it.

An expert learns from the tokens that its router holds likeliest for it: those that chose it and, where these
are few, runners-up; each counts with the square of its affinity, as its error does in the layer's output. So an expert
that is hardly ever chosen is calibrated on the inputs that come nearest to choosing it, rather than on none.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from coderv2.kernels.calibrated import Curvature, calibrated_int4
from coderv2.kernels.formats import FORMATS, Weight
from coderv2.kernels.layout import Parts, assemble, numbers
from coderv2.kernels.routing import choose
from coderv2.model.config import ModelConfig
from coderv2.model.moe import MATRICES, Experts, MixtureOfExperts, Mlp, routing
from coderv2.model.observe import Notes
from coderv2.model.transformer import Layer

_INT4 = FORMATS["int4"]

_MAPS = ("q_proj", "q_a_proj", "q_b_proj", "o_proj")
_MOST_ROWS = 8192
"""Tokens that one network learns from at most."""
_LEAST_PER_COLUMN = 2
"""Tokens for each input column that an expert learns from at least, where the text has them."""
_AT_ONCE = 2048

Triple = tuple[Tensor, Tensor, Tensor]


def calibrated_layer(plain: Layer, wide: Layer, notes: Notes, config: ModelConfig) -> dict[str, Weight]:
    """The layer's int4 weights by name; `wide` is what ran, `plain` the same weights as tensors."""
    found = {
        f"self_attn.{name}": _as_weight(
            [
                calibrated_int4(
                    getattr(plain.self_attn, name),
                    Curvature.of(notes.moments[id(getattr(wide.self_attn, name))]),
                )
            ],
            tuple(getattr(plain.self_attn, name).shape),
        )
        for name in _MAPS
        if hasattr(plain.self_attn, name)
    }
    return found | dict(_feed_forward(plain, wide, notes, config))


def _feed_forward(
    plain: Layer, wide: Layer, notes: Notes, config: ModelConfig
) -> Iterator[tuple[str, Weight]]:
    mlp, seen = plain.mlp, wide.mlp
    if isinstance(mlp, Mlp) and isinstance(seen, Mlp):
        yield from _dense("mlp", mlp, torch.cat(notes.rows[id(seen.gate_proj)]))
    elif isinstance(mlp, MixtureOfExperts) and isinstance(seen, MixtureOfExperts):
        x_TD = torch.cat(notes.rows[id(seen.experts.gate_proj)])
        yield from _dense("mlp.shared_experts", mlp.shared_experts, x_TD)
        yield from _experts(mlp.experts, x_TD, torch.cat(notes.scores_TE), config)


def _dense(stem: str, mlp: Mlp, x_TD: Tensor) -> Iterator[tuple[str, Weight]]:
    few_TD = x_TD[:: -(-len(x_TD) // _MOST_ROWS)]
    triple = _triple(mlp)
    parts = calibrated_network(triple, few_TD, torch.ones(len(few_TD)))
    for name, part, tensor in zip(MATRICES, parts, triple, strict=True):
        yield f"{stem}.{name}", _as_weight([part], tuple(tensor.shape))


def _experts(
    experts: Experts, x_TD: Tensor, scores_TE: Tensor, config: ModelConfig
) -> Iterator[tuple[str, Weight]]:
    stacks = _triple(experts)
    _, chosen_TK = choose(scores_TE, routing(config))
    by_expert = []
    for e in range(config.n_routed_experts):
        rows = rows_for(scores_TE[:, e], (chosen_TK == e).any(-1), _LEAST_PER_COLUMN * x_TD.shape[1])
        weight_n = scores_TE[rows, e].square()
        by_expert.append(calibrated_network((stacks[0][e], stacks[1][e], stacks[2][e]), x_TD[rows], weight_n))
    for name, parts, stack in zip(MATRICES, zip(*by_expert, strict=True), stacks, strict=True):
        yield f"mlp.experts.{name}", _as_weight(list(parts), tuple(stack.shape))


def rows_for(score_T: Tensor, chose_T: Tensor, least: int) -> Tensor:
    """The tokens that an expert learns from: those that chose it first, then the likeliest others."""
    count = min(max(int(chose_T.sum()), least), _MOST_ROWS, len(score_T))
    return (score_T + chose_T.float()).topk(count).indices


def calibrated_network(triple: Triple, x_nD: Tensor, weight_n: Tensor) -> tuple[Parts, Parts, Parts]:
    """Gate, up and down; `down` learns from what the quantised gate and up make of the inputs."""
    gate_FD, up_FD, down_DF = (tensor.float() for tensor in triple)
    inputs = Curvature.of(_moment(x_nD, weight_n))
    gate, up = calibrated_int4(gate_FD, inputs), calibrated_int4(up_FD, inputs)
    rounded = [numbers(_INT4, parts)[:, : x_nD.shape[1]] for parts in (gate, up)]
    hidden_nF = F.silu(x_nD @ rounded[0].T) * (x_nD @ rounded[1].T)
    return gate, up, calibrated_int4(down_DF, Curvature.of(_moment(hidden_nF, weight_n)))


def _moment(x_nI: Tensor, weight_n: Tensor) -> Tensor:
    """Weighted mean of x·xᵀ."""
    share_n1 = (weight_n / weight_n.sum().clamp(min=1e-30))[:, None]
    pieces = zip(x_nI.split(_AT_ONCE), share_n1.split(_AT_ONCE), strict=True)
    return torch.stack([(x * share).T @ x for x, share in pieces]).sum(0)


def _triple(network: Mlp | Experts) -> Triple:
    gate, up, down = (getattr(network, name).detach() for name in MATRICES)
    return gate, up, down


def _as_weight(parts: list[Parts], shape: tuple[int, ...]) -> Weight:
    data = torch.stack([assemble(_INT4, part) for part in parts])
    return Weight(_INT4, shape, data if len(shape) > 2 else data[0])
