"""The machine as arithmetic sees it: cores, instruction sets, memory, and what PyTorch really gets out of them."""

import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F

from coderv2 import paths, ram
from coderv2.errors import Unsupported
from coderv2.kernels import probe

DTYPES = (torch.float32, torch.bfloat16)
DEVICES = ("auto", "cpu", "cuda")
_INSTRUCTION_SETS = (
    "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimd", "bf16",
    "sve",
)  # fmt: skip


@dataclass(frozen=True)
class Speed:
    """What this machine reaches at best in one number format."""

    bytes_per_second: float
    """Of weights, when one row is multiplied: this bounds an answer."""
    flops: float
    """When many rows are multiplied at once: this bounds a prompt."""


@dataclass(frozen=True)
class Machine:
    """One machine; sizes in bytes, speeds of the device that a model would run on."""

    processor: str
    cores: int
    """That this process may use."""
    threads: int
    """That arithmetic will use (CODERV2_THREADS)."""
    instruction_sets: tuple[str, ...]
    memory: int
    free: int
    device: str
    """cpu or cuda."""
    gpu: str | None
    gpu_memory: int
    gpu_free: int
    speeds: dict[torch.dtype, Speed] = field(default_factory=dict)

    @property
    def bandwidth(self) -> float:
        """Bytes per second that a large product of one row reads at best."""
        return max((speed.bytes_per_second for speed in self.speeds.values()), default=0.0)

    @property
    def room(self) -> int:
        """Bytes free on the device that a model would run on."""
        return self.gpu_free if self.device == "cuda" else self.free


def inspect(*, weight_bytes: int = 256 << 20) -> Machine:
    """Looks and measures; a second or two. `weight_bytes` should exceed every cache of the processor."""
    seen = look()
    return replace(seen, speeds=speeds(torch.device(seen.device), weight_bytes))


def look() -> Machine:
    """The same without measuring."""
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    free, memory = free_bytes(torch.device("cpu")), ram.total_bytes()
    return Machine(
        processor=processor(),
        cores=_cores(),
        threads=paths.threads(),
        instruction_sets=_instruction_sets(),
        memory=memory,
        free=free,
        device=device.type,
        gpu=torch.cuda.get_device_name() if gpu else None,
        gpu_memory=torch.cuda.mem_get_info()[1] if gpu else 0,
        gpu_free=torch.cuda.mem_get_info()[0] if gpu else 0,
    )


def place(device: str) -> str:
    """Where to compute: "auto" is the GPU when there is one. Unsupported for a GPU where there is none, or a number."""
    if device not in DEVICES:
        raise Unsupported(
            f"device {device!r}: take one of {', '.join(DEVICES)}; of several GPUs CUDA_VISIBLE_DEVICES chooses",
            param="device",
        )
    gpu = torch.cuda.is_available()
    if device == "cuda" and not gpu:
        raise Unsupported(
            "no GPU that PyTorch can use here: take device cpu, or a PyTorch with CUDA", param="device"
        )
    return ("cuda" if gpu else "cpu") if device == "auto" else device


def processor() -> str:
    """Its name."""
    return _cpuinfo("model name") or "unknown processor"


def free_bytes(device: torch.device) -> int:
    """Bytes that could be taken on `device` now; on the CPU a container's limit counts too."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return ram.free_bytes()


def peak_bytes() -> int:
    """Bytes of this process that were resident at most, mapped files included."""
    path = Path("/proc/self/status")
    if not path.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    lines = path.read_text("ascii", "replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def forget_peak() -> None:
    """Starts `peak_bytes` anew from what is resident now, where the system can (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "ascii")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _instruction_sets() -> tuple[str, ...]:
    flags = set((_cpuinfo("flags") or _cpuinfo("Features") or "").split())
    known = tuple(name for name in _INSTRUCTION_SETS if name in flags)
    return known or (torch.backends.cpu.get_cpu_capability().lower(),)


def _cpuinfo(name: str) -> str | None:
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8", "replace").splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)


def link_speed(size: int = 256 << 20) -> float:
    """Bytes per second from page-locked memory to the GPU."""
    source = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(size, dtype=torch.uint8, device="cuda")
    return size / _seconds(lambda: target.copy_(source, non_blocking=True), target.device)


def speeds(device: torch.device, weight_bytes: int = 256 << 20) -> dict[torch.dtype, Speed]:
    """Measured: by the CPU kernels' own probe where they compute, else by PyTorch's products."""
    threads, weight_bytes = paths.threads(), min(weight_bytes, free_bytes(torch.device("cpu")) // 8)
    if device.type == "cuda" or not probe.available():
        return {dtype: _speed(dtype, device, weight_bytes) for dtype in DTYPES}
    roof = probe.measure(threads, size=weight_bytes)
    kinds = {torch.float32: "fp32", torch.bfloat16: "bf16"}
    return {dtype: Speed(roof.streaming, roof.operations[kinds[dtype]]) for dtype in DTYPES}


@torch.inference_mode()
def _speed(dtype: torch.dtype, device: torch.device, weight_bytes: int) -> Speed:
    width = 2048
    weight_OD = torch.ones(weight_bytes // dtype.itemsize // width, width, dtype=dtype, device=device)
    one_1D, many_TD = (torch.ones(rows, width, dtype=dtype, device=device) for rows in (1, 256))
    part_OD = weight_OD[:width]
    return Speed(
        bytes_per_second=weight_OD.nbytes / _seconds(lambda: F.linear(one_1D, weight_OD), device),
        flops=2 * many_TD.shape[0] * part_OD.numel() / _seconds(lambda: F.linear(many_TD, part_OD), device),
    )


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The best of five, since what else runs can only slow it down."""
    times = []
    for _ in range(6):
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times[1:])
