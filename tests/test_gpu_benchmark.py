"""The GPU's benchmark runs from end to end on tiny shapes without a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed: pip install 'coderv2[gpu]'")


@pytest.mark.slow
def test_every_part_runs_in_small() -> None:
    results = Path(__file__).parent.parent / "benchmarks" / "results"
    before = sorted(results.iterdir())
    command = [sys.executable, "-m", "benchmarks.gpu", "tiny"]
    said = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=results.parent.parent, env=dict(os.environ)
    ).stdout
    for part in (
        "gpu_decode_bf16",
        "gpu_decode_fp8",
        "gpu_decode_int4",
        "transformers",
        "mixture 20 tokens, int4",
    ):
        assert part in said
    assert sorted(results.iterdir()) == before, "figures that mean nothing are not kept"
