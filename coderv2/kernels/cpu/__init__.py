"""Our C++ kernels, built once for each instruction set; the best one that this processor has is imported.

`kernels` is the extension module, or None where it was not built (no compiler at install). CODERV2_ISA forces one.
"""

import importlib
import platform
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from coderv2 import paths
from coderv2.errors import Unsupported
from coderv2.log import logger

_AVX512 = frozenset(
    {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vbmi", "avx512_vnni", "avx512_bf16"}
)
NEEDS: dict[str, frozenset[str]] = {
    "amx": _AVX512 | {"amx_tile", "amx_int8"},
    "avx512": _AVX512,
    "avx2_vnni": frozenset({"avx2", "fma", "f16c", "avx_vnni"}),
    "avx2": frozenset({"avx2", "fma", "f16c"}),
    "neon": frozenset({"asimd", "asimddp"}),
}
"""Instruction sets, best first, and the processor flags (as Linux names them) that each needs."""


def available() -> list[str]:
    """Instruction sets that are built and that this processor has, best first."""
    flags = _flags()
    return [isa for isa in _built() if NEEDS[isa] <= flags]


def _built() -> list[str]:
    return [isa for isa in NEEDS if find_spec(_module(isa))]


def _module(isa: str) -> str:
    # Matrix registers are used or not within one module: most of it is the same.
    return f"{__name__}._{'avx512' if isa == 'amx' else isa}"


def _flags() -> frozenset[str]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8", "replace").splitlines() if cpuinfo.exists() else []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    # Every Mac with an ARM processor has these.
    return NEEDS["neon"] if platform.machine() == "arm64" else frozenset()


def _kernels() -> ModuleType | None:
    usable, forced = available(), paths.isa()
    if forced == "none":
        return None
    if forced is not None and forced not in usable:
        raise Unsupported(f"CODERV2_ISA is {forced!r}; here one of {', '.join([*usable, 'none'])}")
    if not usable:
        return None
    try:
        return opened(forced or usable[0])
    except Unsupported as refused:
        if forced is not None:
            raise
        logger.warning("%s in place of amx: %s", usable[1], refused)
        return opened(usable[1])


def opened(isa: str) -> ModuleType:
    """The extension module, set to this instruction set. Raises Unsupported where the system refuses it."""
    module = importlib.import_module(_module(isa))
    module.set_threads(paths.threads())
    if module.use_tiles(isa == "amx") != (isa == "amx"):
        raise Unsupported(
            "amx: this system refuses matrix registers, or the compiler that built the kernels didn't know them; "
            "CODERV2_ISA=avx512 computes without"
        )
    return module


kernels: Any = _kernels()


def keep_memory() -> None:
    """Freed memory stays with the process from now on: passes take the same amounts again and again."""
    if kernels is not None:
        kernels.keep_memory()


def isa() -> str | None:
    """The instruction set in use."""
    if kernels is None:
        return None
    return "amx" if kernels.uses_tiles() else kernels.__name__.rpartition("._")[2]


@cache
def warn_if_absent() -> None:
    """Logs, once in a process, that PyTorch computes what the kernels would compute faster, and the way out."""
    if kernels is not None:
        return
    if paths.isa() == "none":
        why = "CODERV2_ISA is none"
    elif _built():
        why = f"this processor lacks what they were built for, {' and '.join(_built())}"
    else:
        why = "they were not built; install a C++ compiler (g++ or clang) and reinstall coderv2"
    logger.warning("the CPU kernels are not in use, so PyTorch computes, several times slower: %s", why)
