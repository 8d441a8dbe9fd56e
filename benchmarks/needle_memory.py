"""Memory of a needle prompt of 128K tokens on a model with Lite's attention: at most the latent cache and a tenth more.

Lite's 27 layers, heads and ranks, packed as the CPU runs them; width, experts and vocabulary are small, since memory
beside the cache is what is asked for. Only the last chunk of the prompt and the first token of the answer are computed,
over a cache that is already full: no earlier chunk needs more. Measured in a fresh process after a short prompt: the
peak of the resident memory, less what was resident before the cache was made.
"""

import multiprocessing
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine_overhead import LITE
from benchmarks.record import record
from coderv2 import paths
from coderv2.model.batch import Batch
from coderv2.model.cache import LatentCache
from coderv2.model.config import ModelConfig, RopeScaling
from coderv2.model.pack import pack_model
from coderv2.model.transformer import Transformer

TOKENS, PAGE = 128_000, 16
CHUNKS = (64, 2048)
"""Absorbed and expanded."""
_YARN = RopeScaling(
    factor=40,
    original_max_position_embeddings=4096,
    beta_fast=32,
    beta_slow=1,
    mscale=0.707,
    mscale_all_dim=0.707,
)


def main() -> None:
    """For each number of prompt tokens that are computed at once, in a process of its own."""
    rows: list[dict[str, Any]] = []
    for chunk in CHUNKS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            cache, taken = pool.apply(measured, (chunk,))
        rows.append({
            "tokens at once": chunk,
            "latent cache, MB": cache / 1e6,
            "memory taken, MB": taken / 1e6,
            "above the cache, %": 100 * (taken / cache - 1),
            "target, %": 10.0,
        })  # fmt: skip
    record("needle_memory", rows, ["torch"])


def measured(chunk: int) -> tuple[int, int]:
    """Bytes of the latent cache, and of all that was taken."""
    torch.set_num_threads(paths.threads())
    config = _config()
    with torch.inference_mode():
        plain = Transformer(config).initialise(0.02, 0)
        model = pack_model(plain, lambda name: "f32" if name.endswith("gate") else "bf16")
        _forward(
            model, LatentCache(config, 4 * chunk // PAGE, PAGE, torch.bfloat16), context=chunk, tokens=chunk
        )
        before = _resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from now
        cache = LatentCache(config, TOKENS // PAGE, PAGE, torch.bfloat16)
        page = torch.randn(PAGE, config.kv_lora_rank)
        cache.latent_LPSC[:] = page
        cache.k_rope_LPSR[:] = page[:, : config.qk_rope_head_dim]
        _forward(model, cache, context=TOKENS - 1 - chunk, tokens=chunk)
        _forward(model, cache, context=TOKENS - 1, tokens=1)
        size = sum(part.nbytes for part in (cache.latent_LPSC, cache.k_rope_LPSR))
    return size, _resident("VmHWM") - before


def _forward(model: Transformer, cache: LatentCache, *, context: int, tokens: int) -> None:
    table = list(range(-(-(context + tokens) // PAGE)))
    model(Batch.cached(cache, [[5] * tokens], [context], [table]))


def _config() -> ModelConfig:
    return replace(
        LITE, hidden_size=256, intermediate_size=256, moe_intermediate_size=64,
        n_routed_experts=8, vocab_size=512, max_position_embeddings=163840, rope_scaling=_YARN,
    )  # fmt: skip


def _resident(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024


if __name__ == "__main__":
    main()
