"""What a narrower latent cache costs: next-token KL of the bundled model against a float32 cache.

Text that it was not trained on (`held_out`), in chunks of 16 tokens, so that every score goes through the
absorbed form over the cache.
"""

from typing import Any

import torch
from torch import Tensor

from benchmarks.held_out import divergence, prompts
from benchmarks.record import record
from coderv2.kernels.latents import KINDS
from coderv2.model.batch import Batch
from coderv2.model.cache import LatentCache, bytes_per_token
from coderv2.model.loading import open_model
from coderv2.model.transformer import Transformer
from coderv2.paths import bundled_model
from coderv2.text.tokenizer import Tokenizer

CHUNK, PAGE = 16, 16


def chunked(model: Transformer, ids: list[int], dtype: torch.dtype) -> Tensor:
    """Log-probabilities [T, W]."""
    cache = LatentCache(model.config, -(-len(ids) // PAGE), PAGE, dtype)
    table = list(range(cache.pages))
    chunks = [
        model(Batch.cached(cache, [ids[first : first + CHUNK]], [first], [table], all_logits=True))
        for first in range(0, len(ids), CHUNK)
    ]
    return torch.cat(chunks).log_softmax(-1)


def main() -> None:
    """One line a number format."""
    model = open_model(bundled_model())
    texts = prompts(Tokenizer.from_folder(bundled_model()))
    with torch.inference_mode():
        exact = [chunked(model, ids, torch.float32) for ids in texts]
        rows: list[dict[str, Any]] = []
        for dtype in KINDS[1:]:
            kl, same = divergence(exact, [chunked(model, ids, dtype) for ids in texts])
            name = str(dtype).removeprefix("torch.")
            size = bytes_per_token(model.config, dtype)
            rows.append({"cache": name, "bytes a token": size, "KL": kl, "same token %": 100 * same})
    record("cache_quality", rows, ("torch",))


if __name__ == "__main__":
    main()
