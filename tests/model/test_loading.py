"""What computes a model, and what is said where that is slow."""

import json
import os
import subprocess
import sys

import pytest

from coderv2 import LLM, SamplingParams
from coderv2.kernels import cpu

PROMPT, PARAMS = "def quick_sort(items):", {"temperature": 0, "max_tokens": 64, "ignore_eos": True}
_TWICE = f"""
import json, logging
from coderv2 import LLM, SamplingParams, log
log.to_stderr(logging.WARNING)
for _ in range(2):
    llm = LLM(dtype="float32", cache_tokens=512)
    [out] = llm.generate([{PROMPT!r}], SamplingParams(**{PARAMS!r}))
    print(json.dumps(list(out.outputs[0].token_ids)))
"""


def test_without_kernels_pytorch_writes_the_same_and_it_is_said_once() -> None:
    environment = os.environ | {"CODERV2_ISA": "none", "CODERV2_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _TWICE], capture_output=True, text=True, env=environment, check=True
    )
    [ours] = LLM(dtype="float32", cache_tokens=512).generate([PROMPT], SamplingParams(**PARAMS))
    assert [json.loads(line) for line in done.stdout.splitlines()] == [list(ours.outputs[0].token_ids)] * 2
    assert done.stderr.count("the CPU kernels are not in use") == 1
    assert "CODERV2_ISA is none" in done.stderr


@pytest.mark.parametrize(
    ("built", "why"), [([], "install a C++ compiler"), (["avx512"], "built for, avx512")]
)
def test_the_notice_says_the_way_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, built: list[str], why: str
) -> None:
    monkeypatch.setattr(cpu, "kernels", None)
    monkeypatch.setattr(cpu, "_built", lambda: built)
    monkeypatch.delenv("CODERV2_ISA", raising=False)
    cpu.warn_if_absent.cache_clear()
    cpu.warn_if_absent()
    cpu.warn_if_absent()
    [record] = caplog.records
    assert why in record.getMessage()
    cpu.warn_if_absent.cache_clear()
