"""Each of the GPU's kernels beside the PyTorch operations that it replaces, and beside what the card reaches at best.

Bytes are those that must be read or written once, operations two for a multiply-add. Ceilings are measured here too: a
large copy, a large product. Ours are timed as replays of a CUDA graph, and so is PyTorch where it can be; what asks the
host for something is timed as it comes, its waiting included ("PyTorch by" says which). `tiny` shapes on the CPU, under
Triton's interpreter, show that the script itself works; what they say about speed means nothing.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain, product
from typing import Any

import torch
from torch import Tensor

from benchmarks.journal import Journal
from coderv2.kernels.gpu.timing import Calls, copies, eagerly, on_gpu
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

    def timed(self, calls: Calls, *, asks: bool = False) -> float:
        """Seconds of one; `asks` the host, or not."""
        if self.device.type == "cuda":
            return eagerly(calls) if asks else on_gpu(calls)
        begin = time.perf_counter()
        calls[0]()
        return time.perf_counter() - begin

    def copies(self, size: int) -> int:
        """How many of `size` bytes the GPU's cache does not hold."""
        return copies(size) if self.device.type == "cuda" else 2


LITE = Place(
    torch.device("cuda"), 2048, 1408, 64, 16, 512, 64, 128, 128,
    ((1, 512), (1, 32768), (64, 2048), (256, 2048), (512, 2048)), (1, 8, 64, 512, 4096), (1024, 4096), (1 << 30, 8192),
)  # fmt: skip
TINY = Place(
    torch.device("cpu"), 128, 64, 8, 4, 32, 16, 16, 16, ((1, 40), (2, 20)), (1, 20), (24,), (1 << 20, 128)
)


@dataclass(frozen=True)
class Case:
    """Calls of an operation by its name in both classes, on other data each, and the least that one costs."""

    name: str
    calls: Sequence[tuple[Any, ...]]
    bytes: float
    operations: float
    named: Callable[[int], dict[str, Any]] = lambda _: {}
    """More arguments, of the n-th call."""
    ours: Callable[[int], dict[str, Any]] | None = None
    """The same as our kernels take it; None: alike."""
    ours_asks: bool = False
    plain_asks: bool = False
    """Whether something is copied from the host or asked of it, so that no graph can hold it."""

    @property
    def op(self) -> str:
        """By its name in both classes."""
        return self.name.partition(" ")[0]

    def runs(self, ops: type, named: Callable[[int], dict[str, Any]]) -> Calls:
        """As `ops` does it."""
        run = getattr(ops, self.op)
        return [partial(run, *arguments, **named(n)) for n, arguments in enumerate(self.calls)]


def measure(place: Place, journal: Journal) -> None:
    """A line for each case."""
    best = cache(lambda: ceiling(place))
    part = {"part": "kernels"}
    journal.attempt(
        part | {"what": "ceiling"}, lambda: {"GB/s": best()[0] / 1e9, "TFLOP/s": best()[1] / 1e12}
    )
    for name, make in chain(cases(place), small_cases(place)):
        journal.attempt(part | {"what": name}, lambda make=make: figures(place, make(), best()))  # type: ignore[misc]


def figures(place: Place, case: Case, best: tuple[float, float]) -> dict[str, Any]:
    """Ours, PyTorch's, and the share of the ceiling that is nearer."""
    from coderv2.kernels.gpu.ops import GpuOps
    from coderv2.kernels.ops import Ops

    ours = place.timed(case.runs(GpuOps, case.ours or case.named), asks=case.ours_asks)
    bandwidth, arithmetic = best
    found: dict[str, Any] = {
        "µs": ours * 1e6, "GB/s": case.bytes / ours / 1e9, "TFLOP/s": case.operations / ours / 1e12,
        "share of ceiling": max(case.bytes / ours / bandwidth, case.operations / ours / arithmetic),
        "ours by": _how(case.ours_asks), "PyTorch by": _how(case.plain_asks),
    }  # fmt: skip
    try:
        return found | {"times PyTorch": place.timed(case.runs(Ops, case.named), asks=case.plain_asks) / ours}
    except Exception as error:  # ours is measured all the same
        return found | {"error": f"PyTorch's: {type(error).__name__}: {error}"[:500]}


def _how(asks: bool) -> str:
    return "calls" if asks else "graph"


def ceiling(place: Place) -> tuple[float, float]:
    """Bytes per second of a copy, both ways counted, and operations per second of a product."""
    size, width = place.ceiling
    source = torch.zeros(size, dtype=torch.uint8, device=place.device).random_(0, 256)
    target = torch.empty_like(source)
    a, b = (place.random(width, width) for _ in range(2))
    copied, multiplied = place.timed([lambda: target.copy_(source)]), place.timed([lambda: a @ b])
    return 2 * size / copied, 2 * width**3 / multiplied


def cases(place: Place) -> Iterator[tuple[str, Callable[[], Case]]]:
    """By name, each made when it is wanted: attention in both forms, experts, products with few bits."""
    for B, context in place.decode:
        for dtype in (None, torch.float8_e4m3fn):
            name = f"mla_decode {B} at {context}" + (", fp8 cache" if dtype else "")
            yield name, partial(_decode, place, name, B, context, dtype)
    for T in place.prompts:
        yield f"mla_prefill {T} tokens", partial(_prefill, place, f"mla_prefill {T} tokens", T)
    for T in place.tokens:
        for kind in ("plain", "fp8", "int4"):
            yield (
                f"mixture {T} tokens, {kind}",
                partial(_mixture, place, f"mixture {T} tokens, {kind}", T, kind),
            )
        for kind in ("fp8", "int4"):
            yield f"linear {T} rows, {kind}", partial(_linear, place, f"linear {T} rows, {kind}", T, kind)


def small_cases(place: Place) -> Iterator[tuple[str, Callable[[], Case]]]:
    """What stands round the products."""
    for T, op in product((place.tokens[0], place.tokens[-1]), SMALL):
        yield f"{op} {T} rows", partial(SMALL[op], place, f"{op} {T} rows", T)


def _decode(p: Place, name: str, B: int, context: int, dtype: torch.dtype | None) -> Case:
    from coderv2.kernels.gpu.mla import Spans

    pages = -(-context // 16)
    size = (torch.bfloat16 if dtype is None else dtype).itemsize * (p.C + p.R)
    number = p.copies(size * B * pages * 16)
    latent, keys = (p.random(number * B * pages, 16, width) for width in (p.C, p.R))
    if dtype is not None:
        latent, keys = latent.to(dtype), keys.to(dtype)
    tables = torch.randperm(number * B * pages, device=p.device).view(number, B, pages)
    arguments = (p.random(B, p.H, p.C), p.random(B, p.H, p.R), latent, keys)
    starts, lengths = range(B + 1), [context] * B
    spans = [Spans.of(starts, lengths, list(table), p.device) for table in tables]
    return Case(
        name, [arguments] * number, size * B * context, 2.0 * p.H * (2 * p.C + p.R) * B * context, plain_asks=True,
        named=lambda n: {"starts": starts, "lengths": lengths, "page_tables": list(tables[n]), "scale": 0.1147},
        ours=lambda n: {"starts": spans[n], "scale": 0.1147},
    )  # fmt: skip


def _prefill(p: Place, name: str, T: int) -> Case:
    q, k, v = (p.random(T, p.H, width) for width in (p.N + p.R, p.N + p.R, p.V))
    where = {"q_starts": (0, T), "k_starts": (0, T), "scale": 0.1147}
    moved = sum(x.nbytes for x in (q, k, v, v))
    # Ours copies where sequences begin to the device; PyTorch's has one sequence and asks nothing.
    return Case(
        name, [(q, k, v)], moved, 2.0 * p.H * (p.N + p.R + p.V) * T * T / 2, named=lambda _: where, ours_asks=True
    )  # fmt: skip


def _mixture(p: Place, name: str, T: int, kind: str) -> Case:
    routed, shared = (
        tuple(_weight(p, kind, *stack, *shape) for shape in ((width, p.D), (width, p.D), (p.D, width)))
        for stack, width in (((p.E,), p.F), ((), 2 * p.F))
    )
    K, few = min(6, p.E), T <= 8
    # With few tokens other experts each time, of which all together do not fit the cache.
    chosen = [torch.rand(T, p.E, device=p.device).softmax(-1).topk(K) for _ in range(16 if few else 1)]
    used = sum(len(ids_TK.unique()) for _, ids_TK in chosen) / len(chosen) / p.E
    read = sum(used * w.nbytes for w in routed) + sum(w.nbytes for w in shared)
    x_TD = p.random(T, p.D)
    calls = [(x_TD, weights_TK, ids_TK, routed, shared) for weights_TK, ids_TK in chosen]
    return Case(name, calls, read, 2.0 * T * (K + 2) * 3 * p.D * p.F, plain_asks=True)


def _linear(p: Place, name: str, T: int, kind: str) -> Case:
    first, x_TD = _weight(p, kind, p.D, p.D), p.random(T, p.D)
    weights = [first, *(_copy(first) for _ in range(p.copies(first.nbytes) - 1))]
    return Case(name, [(x_TD, weight) for weight in weights], first.nbytes, 2.0 * T * p.D * p.D)


def _weight(p: Place, kind: str, *shape: int) -> Tensor | Scaled:
    plain = p.random(*shape)
    return plain if kind == "plain" else to_fp8(plain) if kind == "fp8" else to_int4(plain)


def _copy(weight: Tensor | Scaled) -> Tensor | Scaled:
    if isinstance(weight, Tensor):
        return weight.clone()
    return replace(weight, codes=weight.codes.clone(), scales=weight.scales.clone())


def _rms_norm(p: Place, name: str, T: int) -> Case:
    x_TD = p.random(T, p.D)
    return Case(name, [(x_TD, p.random(p.D), 1e-6)], 2.0 * x_TD.nbytes, 0.0)


def _route(p: Place, name: str, T: int) -> Case:
    x_TD, weight_ED = p.random(T, p.D), p.random(p.E, p.D)
    routing = Routing(top=min(6, p.E), groups=1, kept=1, scaling=1.0, renormalise=False)
    return Case(name, [(x_TD, weight_ED, routing)], x_TD.nbytes + weight_ED.nbytes, 2.0 * T * p.E * p.D)


def _rope(p: Place, name: str, T: int) -> Case:
    q_THR = p.random(T, p.H, p.R)
    return Case(name, [(q_THR, *_angles(p, T))], 2.0 * q_THR.nbytes, 0.0)


def _cache_latents(p: Place, name: str, T: int) -> Case:
    raw_TX, slots_T = p.random(T, p.C + p.R), torch.arange(T, device=p.device)
    pages = [p.random(-(-T // 16), 16, width) for width in (p.C, p.R)]
    return Case(
        name, [(raw_TX, p.random(p.C), 1e-6, *_angles(p, T), *pages, slots_T)], 2.0 * raw_TX.nbytes, 0.0
    )


def _angles(p: Place, T: int) -> tuple[Tensor, Tensor]:
    return torch.rand(T, p.R // 2, device=p.device), torch.rand(T, p.R // 2, device=p.device)


SMALL = {"rms_norm": _rms_norm, "route": _route, "rope": _rope, "cache_latents": _cache_latents}
