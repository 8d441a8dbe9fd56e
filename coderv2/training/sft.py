"""The instruction phase: conversations, learnt from the assistant's tokens alone, with documents replayed.

The replay keeps completion and fill-in-the-middle alive, as the published 16B model's fine-tuning did.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from coderv2.data.shards import Shard
from coderv2.model.transformer import Transformer
from coderv2.training.checkpoint import Progress
from coderv2.training.config import RunConfig
from coderv2.training.loop import train


def finetune(model: Transformer, shard: Path, run: RunConfig, folder: Path) -> Progress:
    """Trains `model` in place, or brings it to the state kept in `folder` and goes on.

    The shard says which tokens count in the loss (`shards.write`). Every weight is trained, also of a loaded model,
    whose weights come without gradients.
    """
    model.requires_grad_(True)
    return train(model, Shard(shard), run, folder)


def replay(documents: Shard, tokens: int, *, seed: int) -> Iterator[list[int]]:
    """Documents drawn without repetition until there are `tokens` of them, or no more."""
    for number in np.random.default_rng(seed).permutation(len(documents)):
        if tokens <= 0:
            return
        ids = documents[int(number)].ids.tolist()
        tokens -= len(ids)
        yield ids
