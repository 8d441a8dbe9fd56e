"""The operations of a forward pass as the GPU computes them: ours in Triton, and cuBLAS for plain products."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from coderv2.kernels.gpu import experts, mla, small
from coderv2.kernels.gpu.linear import linear
from coderv2.kernels.ops import Ops

_experts: Any = experts.experts
_swiglu: Any = experts.swiglu


class GpuOps(Ops):
    """What is not here is PyTorch's, which is as fast: embedding, plain products, each head's own map."""

    in_pieces = False

    cache_latents = staticmethod(small.cache_latents)
    cache_write = staticmethod(small.cache_write)
    experts = staticmethod(_experts)
    linear = staticmethod(linear)
    mla_decode = staticmethod(mla.mla_decode)
    mla_prefill = staticmethod(mla.mla_prefill)
    rms_norm = staticmethod(small.rms_norm)
    rope = staticmethod(small.rope)
    route = staticmethod(small.route)
    swiglu = staticmethod(_swiglu)

    @classmethod
    def mixture(
        cls, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, routed: Any, shared: Any
    ) -> Tensor:
        """A token's routed experts and the shared ones, in the same launches where their weights are alike."""
        if experts.joins(routed, shared):
            return experts.mixture(x_TD, weights_TK, experts_TK, routed, shared)
        out_TD: Tensor = cls.experts(x_TD, weights_TK, experts_TK, *routed) + cls.swiglu(x_TD, *shared)
        return out_TD

    @classmethod
    def spans(
        cls, starts: Sequence[int], lengths: Sequence[int], page_tables: Sequence[Tensor]
    ) -> dict[str, Any]:
        """As tensors, so that a layer copies nothing to the device."""
        return {"starts": mla.Spans.of(starts, lengths, page_tables, page_tables[0].device)}

    @classmethod
    def spans_over(cls, starts_B1: Tensor, lengths_B: Tensor, table_BP: Tensor, most: int) -> dict[str, Any]:
        """As they are: nothing is asked of the device."""
        return {"starts": mla.Spans(starts_B1, lengths_B, table_BP, most)}
