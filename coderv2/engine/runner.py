"""Chunks of sequences to one `Batch` to logits; and the memory that the cache may have."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from coderv2.engine.graphs import DecodeGraphs
from coderv2.engine.machine import free_bytes
from coderv2.engine.ranks import Ranks, Weights
from coderv2.engine.sampler import Said
from coderv2.engine.scheduler import Chunk
from coderv2.model.batch import Batch
from coderv2.model.cache import LatentCache, bytes_per_token
from coderv2.model.config import ModelConfig
from coderv2.model.weights import Named, update


class Model(Named, Protocol):
    """What the engine needs of a `Transformer`; tests bring one that is faster."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations."""

    @property
    def cache_dtype(self) -> torch.dtype:
        """Of the cache by default."""

    @property
    def device(self) -> torch.device:
        """Where cache and logits lie."""

    def __call__(self, batch: Batch, /) -> Tensor:
        """Float32 logits of `batch.logits_rows`, [R, W]."""


class Runner:
    """Runs a model over its cache; the chunks bring the page tables."""

    def __init__(
        self,
        model: Model,
        cache: LatentCache,
        *,
        deterministic: bool = False,
        ranks: Ranks | None = None,
        graphs: DecodeGraphs | None = None,
    ) -> None:
        self._ranks, self._graphs = ranks, graphs
        self._model = model
        self._cache = cache
        self._deterministic = deterministic

    def update(self, source: Weights) -> None:
        """New values for the model's weights; nothing has changed when it raises."""
        if self._graphs is not None:
            self._graphs.drop()
        if self._ranks is not None:
            self._ranks.update(source)
            return
        update(self._model, source)

    @torch.inference_mode()
    def step(self, chunks: Sequence[Chunk]) -> tuple[Tensor, Said | None]:
        """Logits as `run` gives them, and with them the tokens where a recorded step has chosen them already."""
        if self._graphs is not None and self._graphs.takes(chunks):
            with self._lockstep():
                return self._graphs.run(chunks)
        if self._graphs is not None:
            self._graphs.drop()
        return self.run(chunks), None

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk]) -> Tensor:
        """Logits after the last `rows` tokens of each chunk, [R, W]; the chunks' tokens are then in the cache."""
        step = (
            [[*chunk.token_ids, *chunk.draft] for chunk in chunks],
            [chunk.context for chunk in chunks],
            [list(chunk.request.pages) for chunk in chunks],
        )
        wanted = [chunk.rows for chunk in chunks]
        if self._ranks is not None:
            self._ranks.tell("step", *step, wanted)
        with self._lockstep():
            return self._model(
                Batch.cached(self._cache, *step, wanted=wanted, deterministic=self._deterministic)
            )

    def _lockstep(self) -> AbstractContextManager[None]:
        return nullcontext() if self._ranks is None else self._ranks.lockstep()


def affordable_tokens(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> int:
    """Tokens whose latents fill a quarter of the memory that is free on `device` now."""
    return free_bytes(device) // 4 // bytes_per_token(config, dtype)
