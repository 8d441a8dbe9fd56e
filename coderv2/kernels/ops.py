"""The operations of a forward pass. The model calls these names only; this file picks who computes them.

Packed weights go to `native`, plain tensors to `reference`, or to `invariant` where no row's bits may depend on the
rows beside it; what lies on a GPU goes to the Triton kernels of `gpu`.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from coderv2.kernels import gpu, invariant, native, native_attention, reference
from coderv2.kernels.formats import Weight
from coderv2.kernels.routing import Routing, choose
from coderv2.kernels.scaled import Scaled

Operand = Tensor | Weight | Scaled
"""A weight: plain, packed for the CPU, or in fewer bits for a GPU."""


def _by_weight(plain: Callable[..., Tensor], packed: Callable[..., Tensor]) -> Any:
    """The operation whose last argument decides: a plain tensor or a packed weight."""

    @wraps(plain)
    def operation(*arguments: Any) -> Tensor:
        return (packed if isinstance(arguments[-1], Weight) else plain)(*arguments)

    return staticmethod(operation)


def _by_place(
    plain: Callable[..., Any],
    ours: Callable[..., Any],
    *,
    rows: tuple[int, ...],
    pages: tuple[int, ...] = (),
) -> Any:
    """The operation that the CPU kernels compute where they can read its `rows` and `pages` (places of arguments)."""

    @wraps(plain)
    def operation(*arguments: Any, **batch: Any) -> Any:
        fits = native_attention.takes(*(arguments[i] for i in rows))
        fits = fits and native_attention.takes_pages(*(arguments[i] for i in pages))
        return (ours if fits else plain)(*arguments, **batch)

    return staticmethod(operation)


def _mla_decode(plain: Callable[..., Tensor]) -> Any:
    return _by_place(plain, native_attention.mla_decode, rows=(0, 1), pages=(2, 3))


class Ops:
    """Every operation, as `reference` defines it."""

    in_pieces = True
    """Whether a long context is expanded a piece at a time."""

    cache_write = _by_place(reference.cache_write, native_attention.cache_write, rows=(3, 4), pages=(0, 1))
    cache_read = _by_place(reference.cache_read, native_attention.cache_read, rows=(), pages=(0,))
    embedding = _by_weight(reference.embedding, native.embedding)
    experts: Any = staticmethod(reference.experts)
    fine_linear = _by_weight(reference.fine_linear, native.fine_linear)
    head_linear = _by_weight(reference.head_linear, native.head_linear)
    linear = _by_weight(reference.linear, native.linear)
    mla_decode = _mla_decode(reference.mla_decode)
    mla_part = _by_place(reference.mla_part, native_attention.mla_part, rows=(0, 1, 2))
    mla_prefill = _by_place(reference.mla_prefill, native_attention.mla_prefill, rows=(0, 1, 2))
    rms_norm = _by_place(reference.rms_norm, native_attention.rms_norm, rows=(0, 1))
    rope = _by_place(reference.rope, native_attention.rope, rows=(0, 1, 2))
    router: Any = staticmethod(reference.router)
    swiglu = _by_weight(reference.swiglu, native.swiglu)

    @classmethod
    def mixture(
        cls, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, routed: Any, shared: Any
    ) -> Tensor:
        """A token's routed experts and the shared one together, each given as (gate, up, down), shape [T, D]."""
        if isinstance(routed[0], Weight):
            return native.mixture(x_TD, weights_TK, experts_TK, routed, shared)
        out_TD: Tensor = cls.experts(x_TD, weights_TK, experts_TK, *routed) + cls.swiglu(x_TD, *shared)
        return out_TD

    @classmethod
    def route(cls, x_TD: Tensor, weight: Operand, routing: Routing) -> tuple[Tensor, Tensor, Tensor]:
        """Affinities [T, E], and weights and ids of each token's experts, [T, K]."""
        if isinstance(weight, Weight):
            return native.route(x_TD, weight, routing)
        scores_TE: Tensor = cls.router(x_TD, weight)
        return scores_TE, *choose(scores_TE, routing)

    @classmethod
    def cache_latents(
        cls,
        raw_TX: Tensor,
        weight_C: Tensor,
        eps: float,
        cos_TR2: Tensor,
        sin_TR2: Tensor,
        latent_PSC: Tensor,
        k_rope_PSR: Tensor,
        slots_T: Tensor,
    ) -> None:
        """Norm of the latents, rotation of the keys that lie beside them in `raw_TX`, and both into their slots."""
        latent_TC, k_rope_TR = raw_TX.split([len(weight_C), raw_TX.shape[-1] - len(weight_C)], -1)
        latent_TC = cls.rms_norm(latent_TC, weight_C, eps)
        cls.cache_write(latent_PSC, k_rope_PSR, slots_T, latent_TC, cls.rope(k_rope_TR, cos_TR2, sin_TR2))

    @classmethod
    def spans(
        cls, starts: Sequence[int], lengths: Sequence[int], page_tables: Sequence[Tensor]
    ) -> dict[str, Any]:
        """Sequences as `mla_decode` takes them; made once for all layers of a pass."""
        return {"starts": starts, "lengths": lengths, "page_tables": page_tables}

    @classmethod
    def spans_over(cls, starts_B1: Tensor, lengths_B: Tensor, table_BP: Tensor, most: int) -> dict[str, Any]:
        """The same from tensors, int32, of which the longest sequence has `most` queries."""
        tables = table_BP.long().contiguous().unbind()
        return cls.spans(starts_B1.tolist(), lengths_B.tolist(), tables)


class InvariantOps(Ops):
    """The same, each row bitwise alike whatever the others are; attention has the absorbed form only.

    What is not here is row-invariant as it stands: norms and rotation treat each row by itself.
    """

    experts = staticmethod(invariant.experts)
    fine_linear = _by_weight(invariant.linear, native.fine_linear)
    head_linear = _by_weight(invariant.head_linear, native.head_linear)
    linear = _by_weight(invariant.linear, native.linear)
    mla_decode = _mla_decode(invariant.mla_decode)
    router: Any = staticmethod(invariant.router)
    swiglu = _by_weight(invariant.swiglu, native.swiglu)


def pick(*, deterministic: bool, device: torch.device) -> type[Ops]:
    """Who computes a forward pass on `device`; gradients only the plain operations have."""
    if deterministic:
        return InvariantOps
    if device.type == "cuda" and not torch.is_grad_enabled():
        on_gpu: type[Ops] = gpu.operations(Ops)
        return on_gpu
    return Ops
