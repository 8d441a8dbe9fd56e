"""Where the Triton kernels are tested: on a GPU for real, else on the CPU under Triton's interpreter."""

import os
from typing import Any

import pytest
import torch

from tests.kernels.gpu.interpreter import mend

if not torch.cuda.is_available():
    # Before Triton is imported: its decorators look once.
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="Triton is not installed: pip install 'coderv2[gpu]'")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


if DEVICE.type == "cpu":
    mend()


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Normal random numbers where the kernels run."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def close(ours: torch.Tensor, wanted: torch.Tensor, **tolerance: Any) -> None:
    """Equal up to the order of additions: 2⁻⁷ of the value in bfloat16."""
    if not tolerance:
        exact = ours.dtype == torch.float32
        tolerance = {"rtol": 1e-4, "atol": 1e-5} if exact else {"rtol": 2**-6, "atol": 2**-6}
    torch.testing.assert_close(ours, wanted, **tolerance)
