"""Forward passes of a model against the clock, over a cache of its own: no scheduler, no sampler, no tokenizer.

The cache's tokens are random numbers rather than computed ones: a pass takes as long over either, and filling 16,384
tokens of a large model takes minutes.
"""

import random
import time

import torch

from coderv2.kernels.latents import stored
from coderv2.model.batch import Batch
from coderv2.model.cache import LatentCache
from coderv2.model.transformer import Transformer

PAGE = 16


class Passes:
    """Room for `tokens` tokens of all sequences together."""

    def __init__(self, model: Transformer, tokens: int, cache_dtype: torch.dtype | None = None) -> None:
        """Over a cache of the model's own number format unless one is given."""
        self._model = model
        self._random = random.Random(0)
        dtype = cache_dtype or model.cache_dtype
        self._cache = LatentCache(model.config, -(-tokens // PAGE) + 1, PAGE, dtype, model.device)
        self._pages = list(range(self._cache.pages))
        self._random.shuffle(self._pages)
        config = model.config
        self._fill(self._cache.latent_LPSC, config.kv_lora_rank)
        self._fill(self._cache.k_rope_LPSR, config.qk_rope_head_dim)

    @staticmethod
    def _fill(part: torch.Tensor, width: int) -> None:
        part[:] = stored(torch.randn(*part.shape[1:3], width, device=part.device), part.dtype)

    def prompt(self, tokens: int) -> float:
        """Seconds for a prompt in one pass, and the logits after it."""
        return self._timed(1, tokens, 0)

    def steps(self, sequences: int, depth: int, count: int) -> float:
        """Seconds for `count` steps of `sequences` sequences, each `depth` tokens long at first."""
        return sum(self._timed(sequences, 1, depth + i) for i in range(count))

    @torch.inference_mode()
    def _timed(self, sequences: int, new: int, context: int) -> float:
        vocabulary = self._model.config.vocab_size
        tokens = [[self._random.randrange(vocabulary) for _ in range(new)] for _ in range(sequences)]
        each = len(self._pages) // sequences
        tables = [self._pages[i * each : (i + 1) * each] for i in range(sequences)]
        begin = time.perf_counter()
        self._model(Batch.cached(self._cache, tokens, [context] * sequences, tables))
        if self._model.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin
