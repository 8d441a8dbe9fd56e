"""Compiles the kernels for a GPU that is not there, in the released models' shapes; one line of JSON for each.

`left` is what a block's shared memory has to spare, `stack` what of a thread's registers lies in memory, both in
bytes; `loads` are a thread's instructions that read the device's memory.
`python -m tests.kernels.gpu.compiled 90 lite bfloat16 bfloat16`: compute capability, sizes, activations, cache.
"""

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from coderv2.kernels.gpu import experts, linear, mla, small, tiles
from coderv2.kernels.routing import Routing
from coderv2.kernels.scaled import BLOCK, FP8, GROUP, Form, Scaled

SHARED = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10}
"""Bytes of shared memory that a block can have."""
DUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
STACKED = 4
"""Experts of a stack: how many there are changes no kernel but the router."""


@dataclass(frozen=True)
class Sizes:
    """What kernels are compiled for."""

    D: int
    H: int
    F: int
    E: int
    groups: int
    kept: int


SIZES = {"lite": Sizes(2048, 16, 1408, 64, 1, 1), "full": Sizes(5120, 128, 1536, 160, 8, 3)}
C, R, N, V, K, S = 512, 64, 128, 128, 6, 2


class Absent:
    """Triton's word for the GPU that it compiles for."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int) -> int:
        return 0


def _compiling(kernel: Any, _grid: object) -> Any:
    """In place of a launch."""

    def compile_only(*arguments: Any, **constants: Any) -> None:
        made = kernel.run(*arguments, grid=None, warmup=True, **constants)
        left = tiles.card(torch.device("cpu")).shared - made.metadata.shared
        loads = len(re.findall(r"ld\.global", made.asm["ptx"]))
        stack = _stack(made.asm["cubin"])
        print(
            json.dumps(
                {"kernel": kernel.__name__, "left": left, "stack": stack, "loads": loads} | _form(constants)
            )
        )

    return compile_only


def _form(constants: dict[str, Any]) -> dict[str, Any]:
    """By which parameters one kernel is several."""
    return {name: constants[name] for name in ("KIND", "GATED", "BT", "BO", "BI") if name in constants}


def _stack(code: bytes) -> int:
    """Bytes for each thread that did not fit its registers."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        said = subprocess.run([DUMP, "-res-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"STACK:(\d+)", said.stdout)
    assert found, said.stdout
    return int(found[1])


def attention(sizes: Sizes, dtype: torch.dtype, cache: torch.dtype) -> None:
    """Everything but products with weights."""
    H, T, page = sizes.H, 33, 16

    def some(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype)

    pages = torch.empty(8, page, C, dtype=cache), torch.empty(8, page, R, dtype=cache)
    slots, angles = torch.zeros(T, dtype=torch.long), (torch.empty(T, R // 2), torch.empty(T, R // 2))
    table = torch.zeros(64, 2048, dtype=torch.int32)
    # That of a recorded step has the first pages of all together.
    for table_BP in (table[:1], table, table.view(2048, 64).T):
        B = len(table_BP)
        spans = mla.Spans(*(torch.zeros(n, dtype=torch.int32) for n in (B + 1, B)), table_BP, 1)
        mla.mla_decode(some(B, H, C), some(B, H, R), *pages, starts=spans, scale=0.1)
    keys = some(T, H, N + R)
    mla.mla_prefill(keys, keys, some(T, H, V), q_starts=(0, T), k_starts=(0, T), scale=0.1)
    small.rms_norm(some(T, sizes.D), some(sizes.D), 1e-6)
    small.rope(some(T, H, R), *angles)
    small.cache_latents(some(T, C + R), some(C), 1e-6, *angles, *pages, slots)
    small.cache_write(*pages, slots, some(T, C), some(T, R))
    how = Routing(top=K, groups=sizes.groups, kept=sizes.kept, scaling=1.0, renormalise=False)
    small.route(some(T, sizes.D), some(sizes.E, sizes.D), how)


def products(sizes: Sizes, dtype: torch.dtype, kind: Form | Literal["plain"]) -> None:
    """Experts and plain products, from one token to many."""
    D, F = sizes.D, sizes.F

    def weight(*shape: int) -> Any:
        *stack, O, I = shape
        if kind == "plain":
            return torch.empty(*shape, dtype=dtype)
        if kind != "int4":
            scales = torch.empty(*stack, triton.cdiv(O, BLOCK), triton.cdiv(I, BLOCK))
            return Scaled(kind, torch.empty(*shape, dtype=FP8), scales, (BLOCK, BLOCK))
        codes = torch.empty(*stack, O, I // 2, dtype=torch.uint8)
        return Scaled("int4", codes, torch.empty(*stack, O, I // GROUP, 2, dtype=torch.half), (1, GROUP))

    routed = weight(STACKED, F, D), weight(STACKED, F, D), weight(STACKED, D, F)
    shared = weight(S * F, D), weight(S * F, D), weight(D, S * F)
    for T in (1, 16, 512):
        x_TD, ids_TK = torch.empty(T, D, dtype=dtype), torch.zeros(T, K, dtype=torch.long)
        experts.mixture(x_TD, torch.empty(T, K), ids_TK, routed, shared)
        linear.linear(x_TD, weight(D, D))


def main(capability: int, sizes: str, dtype: str, cache: str) -> None:
    """All kernels that such a GPU has."""
    driver.set_active(Absent(capability))
    JITFunction.__getitem__ = _compiling
    tiles.card = lambda _: tiles.Card("absent", 132, SHARED[capability])
    attention(SIZES[sizes], getattr(torch, dtype), getattr(torch, cache))
    kinds: list[Form | Literal["plain"]] = ["plain", "int4", "fp8_wide", *_fp8(capability)]
    for kind in kinds:
        products(SIZES[sizes], getattr(torch, dtype), kind)


def _fp8(capability: int) -> list[Form]:
    return ["fp8"] if capability >= 89 else []


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
