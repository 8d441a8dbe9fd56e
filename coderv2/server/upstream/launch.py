"""Starts SGLang or vLLM with the flags that suit DeepSeek-V2's attention and experts, on a port of this machine."""

import importlib.util
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from coderv2.errors import Unsupported


@dataclass(frozen=True)
class Launch:
    """How an engine is to run; names follow `coderv2 serve`."""

    engine: str
    """sglang or vllm."""
    model: str | Path
    tensor_parallel: int = 1
    fp8: bool = False
    """Weights in FP8, converted while they are loaded."""
    fp8_cache: bool = False
    torch_compile: bool = False
    max_model_len: int | None = None

    def command(self, port: int) -> list[str]:
        """The program and its arguments. Both engines use latent attention for this model by themselves."""
        return _COMMANDS[self.engine](self, port)


def _sglang(launch: Launch, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "sglang.launch_server"),
        *("--model-path", str(launch.model), "--host", "127.0.0.1", "--port", str(port)),
        *("--tp", str(launch.tensor_parallel)),
        *(("--quantization", "fp8") if launch.fp8 else ()),
        *(("--kv-cache-dtype", "fp8_e5m2") if launch.fp8_cache else ()),
        *(("--enable-torch-compile",) if launch.torch_compile else ()),
        *(("--context-length", str(launch.max_model_len)) if launch.max_model_len else ()),
    ]


def _vllm(launch: Launch, port: int) -> list[str]:
    # vLLM compiles by default; --enforce-eager is how it is told not to.
    return [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(launch.model), "--host", "127.0.0.1", "--port", str(port)),
        *("--tensor-parallel-size", str(launch.tensor_parallel), "--enable-prefix-caching"),
        *(("--quantization", "fp8") if launch.fp8 else ()),
        *(("--kv-cache-dtype", "fp8") if launch.fp8_cache else ()),
        *(() if launch.torch_compile else ("--enforce-eager",)),
        *(("--max-model-len", str(launch.max_model_len)) if launch.max_model_len else ()),
    ]


_COMMANDS: dict[str, Callable[[Launch, int], list[str]]] = {"sglang": _sglang, "vllm": _vllm}


class Running:
    """A started engine."""

    def __init__(self, launch: Launch) -> None:
        """Raises Unsupported when it is not installed."""
        if importlib.util.find_spec(launch.engine) is None:
            raise Unsupported(
                f"{launch.engine} is not installed here: pip install {launch.engine}, or serve it elsewhere and give "
                "its address with --upstream",
                param="engine",
            )
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._process = start(launch.command(port))

    @property
    def ended(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._process.poll()

    def stop(self) -> None:
        """Ends it."""
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def start(command: Sequence[str]) -> "subprocess.Popen[bytes]":
    """Its output goes where ours goes; a signal from the terminal is not for it, but for us."""
    return subprocess.Popen(list(command), start_new_session=True)


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
