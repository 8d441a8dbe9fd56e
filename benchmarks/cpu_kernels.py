"""Our CPU kernels beside PyTorch's own operations at DeepSeek-Coder-V2-Lite's shapes, in one run."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.record import interleaved, record
from coderv2 import paths
from coderv2.kernels import cpu, native, native_attention, packing, reference
from coderv2.kernels.formats import FORMATS, Weight

ROUNDS = 5
D, FF, E, K = 2048, 1408, 64, 6
H, C, R, N, V = 16, 512, 64, 128, 128
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
Runs = dict[str, Callable[[], object]]


def main() -> None:
    """Every operation for one row and for many."""
    torch.set_num_threads(paths.threads())
    torch.manual_seed(0)
    rows = [_row(name, runs) for name, runs in _cases()]
    record(f"cpu_kernels_{cpu.isa()}", rows, ["torch"])


def _row(name: str, runs: Runs) -> dict[str, Any]:
    """Milliseconds of each way, and how much sooner the best of ours is than the best of PyTorch's."""
    seconds = interleaved(runs, ROUNDS)
    ours = min(value for way, value in seconds.items() if not way.startswith("torch"))
    theirs = min(value for way, value in seconds.items() if way.startswith("torch"))
    ways = ", ".join(f"{way} {value * 1e3:.3f}" for way, value in seconds.items())
    return {"operation": name, "ratio": theirs / ours, "ms": ways}


def _cases() -> list[tuple[str, Runs]]:
    return [
        *((f"linear {D}→{H * (N + R)}, {rows} rows", _linear(rows)) for rows in (1, 16, 512)),
        *((f"experts {K} of {E}, {rows} rows", _experts(rows)) for rows in (1, 16, 256)),
        *((f"absorbed attention, {keys} keys", _absorbed(keys)) for keys in (256, 4096)),
        ("expanded attention, 512 tokens", _expanded(512)),
    ]


def _linear(rows: int) -> Runs:
    x_TD, weight_OD = torch.randn(rows, D), torch.randn(H * (N + R), D) / D**0.5
    runs: Runs = {
        name: partial(native.linear, x_TD, packing.pack(weight_OD, name))
        for name in ("int4", "int8", "bf16", "f32")
    }
    return runs | {
        f"torch {name}": partial(F.linear, x_TD.to(dtype), weight_OD.to(dtype))
        for name, dtype in DTYPES.items()
    }


def _experts(rows: int) -> Runs:
    x_TD = torch.randn(rows, D)
    weights_TK, experts_TK = torch.randn(rows, E).softmax(-1).topk(K)
    packed = _random_int4(E, FF, D), _random_int4(E, FF, D), _random_int4(E, D, FF)
    plain = [torch.randn(*weight.shape, dtype=torch.bfloat16) / D**0.5 for weight in packed]
    x_bf16 = x_TD.bfloat16()
    return {
        "int4": lambda: native.mixture(x_TD, weights_TK, experts_TK, packed, None),
        "torch bfloat16": lambda: reference.experts(x_bf16, weights_TK, experts_TK, *plain),
    }


def _random_int4(*shape: int) -> Weight:
    """One matrix's numbers in every expert: each has bytes of its own all the same."""
    one = packing.pack(torch.randn(*shape[1:]) / D**0.5, "int4").data
    return Weight(FORMATS["int4"], shape, one.repeat(shape[0], 1))


def _absorbed(keys: int) -> Runs:
    pages = keys // 16
    table = torch.randperm(pages)
    q_latent, q_rope = torch.randn(1, H, C), torch.randn(1, H, R)
    latent, k_rope = torch.randn(pages, 16, C), torch.randn(pages, 16, R)
    options: dict[str, Any] = {"starts": [0, 1], "lengths": [keys], "page_tables": [table], "scale": 0.1}
    runs: Runs = {}
    for name, dtype in DTYPES.items():
        q, cache = (q_latent.to(dtype), q_rope.to(dtype)), (latent.to(dtype), k_rope.to(dtype))
        runs[name] = partial(native_attention.mla_decode, q_latent, q_rope, *cache, **options)
        runs[f"torch {name}"] = partial(reference.mla_decode, *q, *cache, **options)
    return runs


def _expanded(tokens: int) -> Runs:
    parts = [torch.randn(tokens, H, width) for width in (N + R, N + R, V)]
    rounded = [part.bfloat16() for part in parts]
    options: dict[str, Any] = {"q_starts": [0, tokens], "k_starts": [0, tokens], "scale": 0.1}
    return {
        "bfloat16": lambda: native_attention.mla_prefill(*parts, **options, rounded=True),
        "float32": lambda: native_attention.mla_prefill(*parts, **options),
        "torch bfloat16": lambda: reference.mla_prefill(*rounded, **options),
        "torch float32": lambda: reference.mla_prefill(*parts, **options),
    }


if __name__ == "__main__":
    main()
