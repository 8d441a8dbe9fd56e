"""The operations of a forward pass. The model calls these names only; this file picks who computes them.

Packed weights go to `native`, plain tensors to `reference`, or to `invariant` where no row's bits may depend on the
rows beside it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from coderv2.kernels import invariant, native, native_attention, packing, reference
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


def _rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    chosen = native_attention if native_attention.takes(x_TD, weight_D) else reference
    return chosen.rms_norm(x_TD, weight_D, eps)


def _rope(x: Tensor, cos_TR2: Tensor, sin_TR2: Tensor) -> Tensor:
    chosen = native_attention if native_attention.takes(x, cos_TR2, sin_TR2) else reference
    return chosen.rope(x, cos_TR2, sin_TR2)


def _cache_write(
    latent_PSC: Tensor, k_rope_PSR: Tensor, slots_T: Tensor, latent_TC: Tensor, k_rope_TR: Tensor
) -> None:
    ours = native_attention.takes(latent_TC, k_rope_TR) and native_attention.takes_pages(latent_PSC, k_rope_PSR)
    chosen = native_attention if ours else reference
    chosen.cache_write(latent_PSC, k_rope_PSR, slots_T, latent_TC, k_rope_TR)


def _mla_decode(plain: Callable[..., Tensor]) -> Any:
    def mla_decode(q_latent_THC: Tensor, q_rope_THR: Tensor, *pages: Tensor, **batch: Any) -> Tensor:
        ours = native_attention.takes(q_latent_THC, q_rope_THR) and native_attention.takes_pages(*pages)
        return (native_attention.mla_decode if ours else plain)(q_latent_THC, q_rope_THR, *pages, **batch)

    mla_decode.__doc__ = plain.__doc__
    return staticmethod(mla_decode)


class Ops:
    """Every operation, as `reference` defines it."""

    cache_write = staticmethod(_cache_write)
    embedding = staticmethod(embedding)
    experts = staticmethod(reference.experts)
    head_linear = _by_weight(reference.head_linear, native.head_linear)
    linear = _by_weight(reference.linear, native.linear)
    mla_decode = _mla_decode(reference.mla_decode)
    mla_prefill = staticmethod(reference.mla_prefill)
    rms_norm = staticmethod(_rms_norm)
    rope = staticmethod(_rope)
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
    mla_decode = _mla_decode(invariant.mla_decode)
    router = _by_weight(invariant.router, native.router)
    swiglu = _by_weight(invariant.swiglu, native.swiglu)


def pick(*, deterministic: bool) -> type[Ops]:
    """Who computes a forward pass."""
    return InvariantOps if deterministic else Ops
