"""The flags of engines that are started here, against what their own help says."""

import sys
from pathlib import Path

import pytest

from coderv2.errors import Unsupported
from coderv2.server.upstream import launch
from coderv2.server.upstream.launch import Launch, Running

ALL = {"tensor_parallel": 8, "fp8": True, "fp8_cache": True, "torch_compile": True, "max_model_len": 4096}


def test_sglang() -> None:
    command = Launch("sglang", "m", **ALL).command(7)  # type: ignore[arg-type]
    assert command[1:] == [
        "-m", "sglang.launch_server", "--model-path", "m", "--host", "127.0.0.1", "--port", "7", "--tp", "8",
        "--quantization", "fp8", "--kv-cache-dtype", "fp8_e5m2", "--enable-torch-compile", "--context-length", "4096",
    ]  # fmt: skip
    assert "--enable-torch-compile" not in Launch("sglang", "m").command(7)


def test_vllm() -> None:
    command = Launch("vllm", "m", **ALL).command(7)  # type: ignore[arg-type]
    assert command[1:] == [
        "-m", "vllm.entrypoints.openai.api_server", "--model", "m", "--host", "127.0.0.1", "--port", "7",
        "--tensor-parallel-size", "8", "--enable-prefix-caching", "--quantization", "fp8", "--kv-cache-dtype", "fp8",
        "--max-model-len", "4096",
    ]  # fmt: skip
    assert "--enforce-eager" in Launch("vllm", "m").command(7)


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_one_that_is_not_installed_says_so(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Unsupported, match=f"{engine} is not installed here"):
        Running(Launch(engine, "m"))


def test_what_was_started_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setitem(launch._COMMANDS, "vllm", lambda launch, port: program)
    running = Running(Launch("vllm", tmp_path))
    assert running.url.startswith("http://127.0.0.1:")
    assert running.ended is None
    running.stop()
    assert running.ended is not None
