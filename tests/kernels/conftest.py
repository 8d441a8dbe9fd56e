"""Every instruction set that this machine has, in one process."""

from collections.abc import Iterator

import pytest

from coderv2.kernels import cpu, ggml, native, native_attention

CALLERS = (native, native_attention, ggml)
"""Who calls the kernels."""


@pytest.fixture(scope="module", params=[*cpu.available(), "none"])
def isa_or_none(request: pytest.FixtureRequest) -> Iterator[str]:
    """Tests of one module run by each instruction set in turn, and by PyTorch as where nothing was built."""
    isa: str = request.param
    kernels = None if isa == "none" else cpu.opened(isa)
    with pytest.MonkeyPatch.context() as patch:
        for caller in CALLERS:
            patch.setattr(caller, "kernels", kernels)
        if kernels is not None:
            kernels.set_threads(2)
        yield isa


@pytest.fixture(scope="module")
def isa(isa_or_none: str) -> str:
    """The same without PyTorch's turn."""
    if isa_or_none == "none":
        pytest.skip("a property of the kernels")
    return isa_or_none
