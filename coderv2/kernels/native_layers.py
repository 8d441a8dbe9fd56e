"""Whole layers in C++, for decode passes: between two kernels Python takes longer than some of them do.

The kernels are those that `native` and `native_attention` call one by one, and so are the bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from coderv2.kernels import latents
from coderv2.kernels.cpu import kernels
from coderv2.kernels.formats import Weight
from coderv2.kernels.native import FeedForward, given
from coderv2.kernels.routing import Routing


@dataclass(frozen=True)
class LayerSizes:
    """Of one layer; letters as everywhere."""

    D: int
    H: int
    N: int
    R: int
    C: int
    V: int
    scale: float
    """Of attention's scores."""
    eps: float
    latent_eps: float


@dataclass(frozen=True)
class LayerWeights:
    """One layer's: matrices packed, norms in float32."""

    input_norm: Tensor
    queries: tuple[Weight, ...]
    """One, or two with a norm between them."""
    query_norm: Tensor | None
    latent: Weight
    latent_norm: Tensor
    key_absorb: Weight
    value_up: Weight
    output: Weight
    mixture_norm: Tensor
    router: Weight | None
    """None in a dense layer, whose one network is `shared`."""
    routing: Routing
    routed: FeedForward | None
    shared: FeedForward


class Layers:
    """A model's layers, ready to run; keeps the weights whose addresses it has."""

    def __init__(self, sizes: LayerSizes, weights: Sequence[LayerWeights]) -> None:
        self._weights = list(weights)
        self._layers = [_layer(sizes, layer) for layer in weights]

    def run(
        self,
        x_TD: Tensor,
        rotary: tuple[Tensor, Tensor],
        slots_T: Tensor,
        pages: tuple[Tensor, Tensor],
        *,
        starts: Sequence[int],
        lengths: Sequence[int],
        page_tables: Sequence[Tensor],
    ) -> None:
        """Through all layers, in place; `pages` are the cache's latents and keys of all layers, [L, P, S, ...]."""
        tables = [table.contiguous() for table in page_tables]
        cos_TR2, sin_TR2 = rotary
        latent_LPSX, k_rope_LPSX = pages
        kernels.run_layers(
            self._layers,
            x_TD.data_ptr(),
            x_TD.shape[0],
            cos_TR2.data_ptr(),
            sin_TR2.data_ptr(),
            slots_T.data_ptr(),
            latent_LPSX.data_ptr(),
            latent_LPSX.stride(0) * latent_LPSX.itemsize,
            k_rope_LPSX.data_ptr(),
            k_rope_LPSX.stride(0) * k_rope_LPSX.itemsize,
            latents.KINDS.index(latent_LPSX.dtype),
            list(starts),
            list(lengths),
            [table.data_ptr() for table in tables],
            latent_LPSX.shape[2],
        )


def _layer(s: LayerSizes, w: LayerWeights) -> Any:
    routing = w.routing
    router = kernels.Router(
        given(() if w.router is None else (w.router,)),
        routing.top,
        routing.groups,
        routing.kept,
        routing.renormalise,
        routing.factor,
    )
    return kernels.Layer(
        kernels.Sizes(s.D, s.H, s.N, s.R, s.C, s.V, s.scale, s.eps, s.latent_eps),
        w.input_norm.data_ptr(),
        given(w.queries),
        0 if w.query_norm is None else w.query_norm.data_ptr(),
        *given((w.latent,)),
        w.latent_norm.data_ptr(),
        *given((w.key_absorb, w.value_up, w.output)),
        w.mixture_norm.data_ptr(),
        router,
        given(w.routed),
        w.routed[0].shape[0] if w.routed else 0,
        given(w.shared),
    )
