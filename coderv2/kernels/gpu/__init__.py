"""Our Triton kernels, imported when a batch on a GPU first asks for them: without one nothing imports Triton."""

import importlib
from functools import cache
from importlib.util import find_spec
from typing import Any

from coderv2.log import logger


@cache
def operations(plain: Any) -> Any:
    """The class of operations for tensors on a GPU; `plain` itself, with a warning, where Triton is not installed."""
    if find_spec("triton") is None:
        logger.warning("Triton is not installed: PyTorch computes on the GPU, slower (pip install triton)")
        return plain
    return importlib.import_module(f"{__name__}.ops").GpuOps
