"""The operations of a forward pass. The model calls these names only; this file picks who computes them.

Today every operation is `reference`'s, on every device.
"""

from coderv2.kernels.reference import (
    cache_write,
    experts,
    linear,
    mla_decode,
    mla_prefill,
    rms_norm,
    rope,
    router,
    swiglu,
)

__all__ = [
    "cache_write",
    "experts",
    "linear",
    "mla_decode",
    "mla_prefill",
    "rms_norm",
    "rope",
    "router",
    "swiglu",
]
