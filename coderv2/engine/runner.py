"""Chunks of sequences to one `Batch` to logits; and the memory that the cache may have."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from coderv2.engine.scheduler import Chunk
from coderv2.model.batch import Batch
from coderv2.model.cache import LatentCache, bytes_per_token
from coderv2.model.config import ModelConfig


class Model(Protocol):
    """What the engine needs of a `Transformer`; tests bring one that is faster."""

    @property
    def config(self) -> ModelConfig:
        """Shapes; the engine reads vocabulary and context."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations, and by default of the cache."""

    @property
    def device(self) -> torch.device:
        """Where cache and logits lie."""

    def __call__(self, batch: Batch, /) -> Tensor:
        """Float32 logits of `batch.logits_rows`, [B, W]."""


class Runner:
    """Runs a model over its cache; the chunks bring the page tables."""

    def __init__(self, model: Model, cache: LatentCache) -> None:
        self._model = model
        self._cache = cache

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk]) -> Tensor:
        """Logits after each chunk's last token, [B, W]; the chunks' tokens are then in the cache."""
        batch = Batch.cached(
            self._cache,
            [chunk.token_ids for chunk in chunks],
            [chunk.context for chunk in chunks],
            [chunk.request.pages for chunk in chunks],
        )
        logits_BW: Tensor = self._model(batch)
        return logits_BW


def affordable_tokens(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> int:
    """Tokens whose latents fill a quarter of the memory that is free on `device` now."""
    return _free_bytes(device) // 4 // bytes_per_token(config, dtype)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        # Not sysconf's free pages: those leave out what a freshly read checkpoint left in the page cache.
        fields = dict(line.split(":", 1) for line in meminfo.read_text("ascii").splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
