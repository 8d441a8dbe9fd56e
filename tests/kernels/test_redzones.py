"""Under AddressSanitizer (`sanitized`): who reads one byte too many is caught, wherever the memory comes from."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from coderv2.kernels import ggml, memory, packing
from coderv2.kernels.cpu import kernels

pytestmark = [
    pytest.mark.skipif(
        "libasan" not in os.environ.get("LD_PRELOAD", ""),
        reason="only with kernels built with AddressSanitizer",
    ),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),  # Python 3.12 on forks
]

SOURCES: dict[str, Callable[[], Tensor]] = {
    "a tensor": lambda: torch.zeros(100, dtype=torch.uint8),
    "an array": lambda: torch.from_numpy(np.zeros(100, dtype=np.uint8)),
    "a packed weight's memory": lambda: memory.empty_bytes(100),
    "the cache's memory": lambda: memory.fresh_bytes(100),
    "a packed weight": lambda: packing.pack(torch.ones(16, 32), "int8").data,
    "a weight of a GGUF file": lambda: ggml.pack(8, torch.zeros(16 * 34, dtype=torch.uint8), (16, 32)).data,
}


def _report(call: Callable[[], object], path: Path) -> str:
    """What a child that makes the call says on its way out; nothing where it lives on."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), 2)
        call()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    said = path.read_text()
    assert bool(said) == bool(os.waitstatus_to_exitcode(status))
    return said


@pytest.mark.parametrize("source", SOURCES.values(), ids=list(SOURCES))
def test_one_byte_too_many_is_seen(source: Callable[[], Tensor], tmp_path: Path) -> None:
    data = source()
    address, count = data.data_ptr(), data.numel()
    assert not _report(lambda: kernels.checksum(address, count), tmp_path / "well")
    said = _report(lambda: kernels.checksum(address, count + 1), tmp_path / "too many")
    assert "heap-buffer-overflow" in said
    assert "checksum" in said


def test_undefined_behaviour_is_looked_for() -> None:
    assert b"__ubsan_handle_float_cast_overflow" in Path(kernels.__file__).read_bytes()
