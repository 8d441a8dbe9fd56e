"""The operations of a forward pass. The model calls these names only; this file picks who computes them.

Packed weights go to `native`, plain tensors to `reference`, or to `invariant` where no row's bits may depend on the
rows beside it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from coderv2.kernels import invariant, native, packing, reference
from coderv2.kernels.formats import Weight

Operand = Tensor | Weight
"""A weight: plain or packed."""


def _by_weight(plain: Callable[..., Tensor], packed: Callable[..., Tensor]) -> Any:
    """The operation whose last argument decides."""

    def operation(*arguments: Any) -> Tensor:
        return (packed if isinstance(arguments[-1], Weight) else plain)(*arguments)

    operation.__doc__ = plain.__doc__
    return staticmethod(operation)


def embedding(token_ids_T: Tensor, weight: Operand) -> Tensor:
    """The tokens' rows of [W, D], shape [T, D]."""
    if isinstance(weight, Weight):
        return packing.unpack_rows(weight, token_ids_T)
    return torch.nn.functional.embedding(token_ids_T, weight)


def _mixture(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    routed: Any,
    shared: Any,
    ops: "type[Ops]",
) -> Tensor:
    if isinstance(routed[0], Weight):
        return native.mixture(x_TD, weights_TK, experts_TK, routed, shared)
    out_TD: Tensor = ops.experts(x_TD, weights_TK, experts_TK, *routed) + ops.swiglu(x_TD, *shared)
    return out_TD


class Ops:
    """Every operation, as `reference` defines it."""

    cache_write = staticmethod(reference.cache_write)
    embedding = staticmethod(embedding)
    experts = staticmethod(reference.experts)
    head_linear = _by_weight(reference.head_linear, native.head_linear)
    linear = _by_weight(reference.linear, native.linear)
    mla_decode = staticmethod(reference.mla_decode)
    mla_prefill = staticmethod(reference.mla_prefill)
    rms_norm = staticmethod(reference.rms_norm)
    rope = staticmethod(reference.rope)
    router = _by_weight(reference.router, native.router)
    swiglu = _by_weight(reference.swiglu, native.swiglu)

    @classmethod
    def mixture(
        cls, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, routed: Any, shared: Any
    ) -> Tensor:
        """A token's routed experts and the shared one together, each given as (gate, up, down), shape [T, D]."""
        return _mixture(x_TD, weights_TK, experts_TK, routed, shared, cls)


class InvariantOps(Ops):
    """The same, each row bitwise alike whatever the others are; attention has the absorbed form only.

    What is not here is row-invariant as it stands: norms and rotation treat each row by itself.
    """

    experts = staticmethod(invariant.experts)
    head_linear = _by_weight(invariant.head_linear, native.head_linear)
    linear = _by_weight(invariant.linear, native.linear)
    mla_decode = staticmethod(invariant.mla_decode)
    router = _by_weight(invariant.router, native.router)
    swiglu = _by_weight(invariant.swiglu, native.swiglu)


def pick(*, deterministic: bool) -> type[Ops]:
    """Who computes a forward pass."""
    return InvariantOps if deterministic else Ops
