"""The operations of a forward pass. The model calls these names only; this file picks who computes them.

Today every operation is `reference`'s, on every device; `InvariantOps` computes them so that no row's bits depend on
the rows beside it.
"""

from coderv2.kernels import invariant, reference


class Ops:
    """Every operation, as `reference` defines it."""

    cache_write = staticmethod(reference.cache_write)
    experts = staticmethod(reference.experts)
    head_linear = staticmethod(reference.head_linear)
    linear = staticmethod(reference.linear)
    mla_decode = staticmethod(reference.mla_decode)
    mla_prefill = staticmethod(reference.mla_prefill)
    rms_norm = staticmethod(reference.rms_norm)
    rope = staticmethod(reference.rope)
    router = staticmethod(reference.router)
    swiglu = staticmethod(reference.swiglu)


class InvariantOps(Ops):
    """The same, each row bitwise alike whatever the others are; attention has the absorbed form only.

    What is not here is row-invariant as it stands: norms and rotation treat each row by itself.
    """

    experts = staticmethod(invariant.experts)
    head_linear = staticmethod(invariant.head_linear)
    linear = staticmethod(invariant.linear)
    mla_decode = staticmethod(invariant.mla_decode)
    router = staticmethod(invariant.router)
    swiglu = staticmethod(invariant.swiglu)


def pick(*, deterministic: bool) -> type[Ops]:
    """Who computes a forward pass."""
    return InvariantOps if deterministic else Ops
