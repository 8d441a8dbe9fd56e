"""Each of the GPU's kernels beside the PyTorch operations that it replaces, and beside what the card reaches at best.

Bytes are those that must be read or written once, operations two for a multiply-add. Ceilings are measured here too: a
large copy, a large product. `tiny` shapes on the CPU, under Triton's interpreter, show that the script itself works;
what they say about speed means nothing.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from coderv2.kernels.gpu.timing import on_gpu
from coderv2.kernels.routing import Routing
from coderv2.kernels.scaled import Scaled, to_fp8, to_int4


@dataclass(frozen=True)
class Place:
    """Where it is measured, and at which widths."""

    device: torch.device
    D: int
    F: int
    E: int
    H: int
    C: int
    R: int
    V: int
    N: int
    decode: Sequence[tuple[int, int]]
    """Sequences, and tokens that each has in the cache."""
    tokens: Sequence[int]
    """In a pass through experts and products."""
    prompts: Sequence[int]
    ceiling: tuple[int, int]
    """Bytes of the copy, width of the product."""

    def random(self, *shape: int) -> Tensor:
        """Bfloat16, or float32 under the interpreter."""
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        return torch.randn(*shape, dtype=dtype, device=self.device) / 8

    def timed(self, run: Callable[[], object]) -> float:
        """Seconds of one run."""
        if self.device.type == "cuda":
            return on_gpu(run)
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin


LITE = Place(
    torch.device("cuda"), 2048, 1408, 64, 16, 512, 64, 128, 128,
    ((1, 512), (1, 32768), (64, 2048), (256, 2048), (512, 2048)), (1, 8, 64, 512, 4096), (1024, 4096), (1 << 30, 8192),
)  # fmt: skip
TINY = Place(
    torch.device("cpu"), 128, 64, 8, 4, 32, 16, 16, 16, ((1, 40), (2, 20)), (1, 20), (24,), (1 << 20, 128)
)


@dataclass(frozen=True)
class Case:
    """One call of an operation by its name in both classes, and the least that it costs."""

    name: str
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    bytes: float
    operations: float


def ceiling(place: Place) -> tuple[float, float]:
    """Bytes per second of a copy, both ways counted, and operations per second of a product."""
    size, width = place.ceiling
    source = torch.empty(size, dtype=torch.uint8, device=place.device)
    target = torch.empty_like(source)
    a, b = (place.random(width, width) for _ in range(2))
    copied, multiplied = place.timed(lambda: target.copy_(source)), place.timed(lambda: a @ b)
    return 2 * size / copied, 2 * width**3 / multiplied


def rows(place: Place) -> Iterator[dict[str, Any]]:
    """A line of the table for each case."""
    from coderv2.kernels.gpu.ops import GpuOps
    from coderv2.kernels.ops import Ops

    bandwidth, arithmetic = ceiling(place)
    for case in cases(place):
        op = case.name.partition(" ")[0]
        ours, plain = (
            place.timed(partial(getattr(ops, op), *case.arguments, **case.named)) for ops in (GpuOps, Ops)
        )
        yield {
            "kernel": case.name, "µs": ours * 1e6, "GB/s": case.bytes / ours / 1e9,
            "TFLOP/s": case.operations / ours / 1e12,
            "share of ceiling": max(case.bytes / ours / bandwidth, case.operations / ours / arithmetic),
            "times PyTorch": plain / ours, "ceiling, GB/s": bandwidth / 1e9, "ceiling, TFLOP/s": arithmetic / 1e12,
        }  # fmt: skip


def cases(place: Place) -> Iterator[Case]:
    """Attention in both forms, experts, products with few bits, and the small ones."""
    for B, context in place.decode:
        for dtype in (None, torch.float8_e4m3fn):
            yield _decode(place, B, context, dtype)
    for T in place.prompts:
        yield _prefill(place, T)
    for T in place.tokens:
        for kind in ("plain", "fp8", "int4"):
            yield _mixture(place, T, kind)
        for kind in ("fp8", "int4"):
            yield _linear(place, T, kind)
    for T in (place.tokens[0], place.tokens[-1]):
        yield from _small(place, T)


def _decode(p: Place, B: int, context: int, dtype: torch.dtype | None) -> Case:
    pages = -(-context // 16)
    latent, keys = (p.random(B * pages, 16, width) for width in (p.C, p.R))
    if dtype is not None:
        latent, keys = latent.to(dtype), keys.to(dtype)
    tables = torch.randperm(B * pages, device=p.device).view(B, pages)
    where = {"starts": range(B + 1), "lengths": [context] * B, "page_tables": list(tables), "scale": 0.1147}
    arguments = (p.random(B, p.H, p.C), p.random(B, p.H, p.R), latent, keys)
    read = latent.element_size() * (p.C + p.R) * B * context
    name = f"mla_decode {B} at {context}" + (", fp8 cache" if dtype else "")
    return Case(name, arguments, where, read, 2.0 * p.H * (2 * p.C + p.R) * B * context)


def _prefill(p: Place, T: int) -> Case:
    q, k, v = (p.random(T, p.H, width) for width in (p.N + p.R, p.N + p.R, p.V))
    where = {"q_starts": (0, T), "k_starts": (0, T), "scale": 0.1147}
    moved = sum(x.nbytes for x in (q, k, v, v))
    return Case(f"mla_prefill {T} tokens", (q, k, v), where, moved, 2.0 * p.H * (p.N + p.R + p.V) * T * T / 2)


def _mixture(p: Place, T: int, kind: str) -> Case:
    routed, shared = (
        tuple(_weight(p, kind, *stack, *shape) for shape in ((width, p.D), (width, p.D), (p.D, width)))
        for stack, width in (((p.E,), p.F), ((), 2 * p.F))
    )
    weights_TK, ids_TK = torch.rand(T, p.E, device=p.device).softmax(-1).topk(min(6, p.E))
    used = len(ids_TK.unique()) / p.E
    read = sum(used * w.nbytes for w in routed) + sum(w.nbytes for w in shared)
    chosen = 2.0 * T * (ids_TK.shape[1] + 2) * 3 * p.D * p.F
    return Case(
        f"mixture {T} tokens, {kind}",
        (p.random(T, p.D), weights_TK, ids_TK, routed, shared),
        {},
        read,
        chosen,
    )


def _linear(p: Place, T: int, kind: str) -> Case:
    weight = _weight(p, kind, p.D, p.D)
    return Case(
        f"linear {T} rows, {kind}", (p.random(T, p.D), weight), {}, weight.nbytes, 2.0 * T * p.D * p.D
    )


def _weight(p: Place, kind: str, *shape: int) -> Tensor | Scaled:
    plain = p.random(*shape)
    return plain if kind == "plain" else to_fp8(plain) if kind == "fp8" else to_int4(plain)


def _small(p: Place, T: int) -> Iterator[Case]:
    x, size = p.random(T, p.D), p.random(1).element_size()
    yield Case(f"rms_norm {T} rows", (x, p.random(p.D), 1e-6), {}, 2.0 * x.nbytes, 0.0)
    routing = Routing(top=min(6, p.E), groups=1, kept=1, scaling=1.0, renormalise=False)
    yield Case(
        f"route {T} rows",
        (x, p.random(p.E, p.D), routing),
        {},
        x.nbytes + size * p.E * p.D,
        2.0 * T * p.E * p.D,
    )
    cos, sin = (torch.rand(T, p.R // 2, device=p.device) for _ in range(2))
    q = p.random(T, p.H, p.R)
    yield Case(f"rope {T} rows", (q, cos, sin), {}, 2.0 * q.nbytes, 0.0)
    pages = [p.random(-(-T // 16), 16, width) for width in (p.C, p.R)]
    raw = p.random(T, p.C + p.R)
    slots = torch.arange(T, device=p.device)
    arguments = (raw, p.random(p.C), 1e-6, cos, sin, *pages, slots)
    yield Case(f"cache_latents {T} rows", arguments, {}, 2.0 * raw.nbytes, 0.0)
