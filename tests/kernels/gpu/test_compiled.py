"""Every kernel compiles for real GPUs, in shared memory and registers that they have; no GPU is needed for that.

The interpreter proves the numbers, but takes programs that the compiler refuses.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

if (
    find_spec("triton") is None
):  # not imported: whether it interprets is decided then, for the tests after these
    pytest.skip("Triton is not installed: pip install 'coderv2[gpu]'", allow_module_level=True)

SPILLED = 128
"""Bytes of a thread's registers that may lie in memory."""
LOADS_OF_A_TOKEN = 12
"""Of a thread, in experts of few bits at one token: a step's codes, row and scales, each once."""

slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("capability", "sizes", "dtype", "cache"),
    [
        pytest.param(80, "lite", "bfloat16", "float8_e5m2", marks=slow),
        pytest.param(80, "full", "bfloat16", "bfloat16", marks=slow),
        pytest.param(86, "lite", "float32", "float32", marks=slow),
        pytest.param(89, "lite", "bfloat16", "float8_e4m3fn", marks=slow),
        pytest.param(89, "full", "bfloat16", "bfloat16", marks=slow),
        (90, "lite", "bfloat16", "bfloat16"),
        pytest.param(90, "full", "bfloat16", "float8_e4m3fn", marks=slow),
        pytest.param(90, "lite", "float32", "float32", marks=slow),
    ],
)
def test_kernels_compile_for(capability: int, sizes: str, dtype: str, cache: str) -> None:
    command = [sys.executable, "-m", "tests.kernels.gpu.compiled", str(capability), sizes, dtype, cache]
    # In a process of its own: in this one Triton may interpret.
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ran = subprocess.run(command, env=plain, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert {one["kernel"] for one in found} >= {
        "_decode",
        "_merge",
        "_prefill",
        "multiply",
        "_linear",
        "_route",
    }
    assert [one for one in found if one["left"] < 0] == []
    assert [one for one in found if one["stack"] > SPILLED] == []
    few_bits = [one for one in found if one["kernel"] == "multiply" and one["BT"] == 1 and one["KIND"] > 0]
    assert len(few_bits) >= 4
    assert [one for one in few_bits if one["loads"] > LOADS_OF_A_TOKEN] == []
