"""Operations over packed weights, in C++: what `reference` means, on float32 activations.

A row's bits do not depend on the rows beside it, so these serve deterministic passes too. Where the kernels were not
built, the weights are unpacked and `reference` computes: slowly, and exactly what is stored.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from coderv2.kernels import packing, reference
from coderv2.kernels.cpu import kernels
from coderv2.kernels.formats import Weight
from coderv2.kernels.routing import Routing, choose

FeedForward = tuple[Weight, Weight, Weight]
"""Gate, up and down of one network, or of a stack of them."""


def _rows(x: Tensor, width: int) -> Tensor:
    """As the kernels read it."""
    if x.shape[-1] != width or x.device.type != "cpu":
        raise ValueError(f"rows of {tuple(x.shape)} on {x.device} for weights of width {width}")
    return x.float().contiguous()


def linear(x_TD: Tensor, weight: Weight) -> Tensor:
    """`x · Wᵀ` with a weight [O, D], shape [T, O]."""
    if kernels is None:
        return reference.linear(x_TD.float(), packing.unpack(weight))
    O, D = weight.shape[-2:]
    x_TD = _rows(x_TD, D)
    out_TO = torch.empty(x_TD.shape[0], O)
    kernels.linear(
        weight.format.code, weight.data.data_ptr(), 1, O, D, x_TD.data_ptr(), x_TD.shape[0], out_TO.data_ptr()
    )
    return out_TO


def fine_linear(x_TD: Tensor, weight: Weight) -> Tensor:
    """`linear` with rows in two parts where the kernels round rows to int8: what that makes of them, and the rest.

    That is fifteen bits of each number, for twice the products.
    """
    if kernels is None or weight.format.scales in ("none", "fp8"):
        return linear(x_TD, weight)
    rounded_TD = _as_int8(x_TD, weight.format.unit)
    both_TO = linear(torch.cat((rounded_TD, x_TD - rounded_TD)), weight)
    return both_TO[: len(x_TD)].add_(both_TO[len(x_TD) :])


def _as_int8(x_TD: Tensor, span: int) -> Tensor:
    """Rounded as the kernels do it, with a scale for each `span` columns."""
    D = x_TD.shape[1]
    x_TGs = F.pad(x_TD.float(), (0, -D % span)).unflatten(1, (-1, span))
    step_TG1 = x_TGs.abs().amax(-1, keepdim=True) / 127
    numbers_TGs = torch.where(step_TG1 > 0, x_TGs / step_TG1, 0.0).round_()
    rounded_TD: Tensor = (numbers_TGs * step_TG1).flatten(1)[:, :D]
    return rounded_TD


def head_linear(x_THI: Tensor, weight: Weight) -> Tensor:
    """Each head's own map by a stack [H, O, I], shape [T, H, O]."""
    if kernels is None:
        return reference.head_linear(x_THI.float(), packing.unpack(weight).transpose(1, 2))
    H, O, I = weight.shape
    x_THI = _rows(x_THI, I)
    out_THO = torch.empty(x_THI.shape[0], H, O)
    kernels.linear(
        weight.format.code,
        weight.data.data_ptr(),
        H,
        O,
        I,
        x_THI.data_ptr(),
        x_THI.shape[0],
        out_THO.data_ptr(),
    )
    return out_THO


def embedding(token_ids_T: Tensor, weight: Weight) -> Tensor:
    """The tokens' rows of [W, D], shape [T, D]."""
    if kernels is None:
        return packing.unpack_rows(weight, token_ids_T)
    W, D = weight.shape
    ids_T = token_ids_T.contiguous()
    if ids_T.numel() and not 0 <= int(ids_T.min()) <= int(ids_T.max()) < W:
        raise IndexError(f"token ids must be from 0 to {W - 1}")
    out_TD = torch.empty(len(ids_T), D)
    kernels.embed(
        weight.format.code, weight.data.data_ptr(), W, D, ids_T.data_ptr(), len(ids_T), out_TD.data_ptr()
    )
    return out_TD


def route(x_TD: Tensor, weight: Weight, routing: Routing) -> tuple[Tensor, Tensor, Tensor]:
    """Affinities [T, E], and weights and ids of each token's experts, [T, K]; of equal experts the first."""
    scores_TE = linear(x_TD, weight)
    if kernels is None:
        scores_TE = scores_TE.softmax(-1)
        return scores_TE, *choose(scores_TE, routing)
    T, E = scores_TE.shape
    weights_TK, experts_TK = torch.empty(T, routing.top), torch.empty(T, routing.top, dtype=torch.long)
    kernels.route(
        scores_TE.data_ptr(),
        T,
        E,
        routing.top,
        routing.groups,
        routing.kept,
        routing.renormalise,
        routing.factor,
        weights_TK.data_ptr(),
        experts_TK.data_ptr(),
    )
    return scores_TE, weights_TK, experts_TK


def swiglu(x_TD: Tensor, gate: Weight, up: Weight, down: Weight) -> Tensor:
    """`down(silu(gate·x) ⊙ up·x)`, shape [T, D]."""
    nobody = torch.empty(x_TD.shape[0], 0)
    return mixture(x_TD, nobody, nobody.long(), None, (gate, up, down))


def mixture(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    routed: FeedForward | None,
    shared: FeedForward | None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Weighted sum of each token's K experts, plus the network that all tokens share, shape [T, D].

    `routed` holds stacks [E, …]; an expert below 0 is computed elsewhere and adds nothing here. Added up in float32 in
    the order of the token's ranking, the shared one last; into `out` where that is given, float32 [T, D].
    """
    out_TD = torch.empty(x_TD.shape) if out is None else out
    if kernels is None:
        return out_TD.copy_(_unpacked_mixture(x_TD, weights_TK, experts_TK, routed, shared))
    D = x_TD.shape[1]
    x_TD, weights_TK, experts_TK = _rows(x_TD, D), weights_TK.float().contiguous(), experts_TK.contiguous()
    kernels.experts(
        x_TD.data_ptr(),
        *x_TD.shape,
        weights_TK.data_ptr(),
        experts_TK.data_ptr(),
        experts_TK.shape[1],
        routed[0].shape[0] if routed else 0,
        given(routed),
        given(shared),
        out_TD.data_ptr(),
    )
    return out_TD


def given(weights: Sequence[Weight] | None) -> list[tuple[int, int, int, int]]:
    """Weights as the kernels take them: format, address, rows, columns."""
    return [(w.format.code, w.data.data_ptr(), w.shape[-2], w.shape[-1]) for w in weights or ()]


def _unpacked_mixture(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    routed: FeedForward | None,
    shared: FeedForward | None,
) -> Tensor:
    out_TD = torch.zeros(x_TD.shape)
    if routed is not None:
        gate, up, down = map(packing.unpack, routed)
        out_TD = reference.experts(x_TD.float(), weights_TK, experts_TK, gate, up, down)
    if shared is not None:
        gate, up, down = map(packing.unpack, shared)
        out_TD = out_TD + reference.swiglu(x_TD.float(), gate, up, down)
    return out_TD
