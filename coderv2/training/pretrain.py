"""Pretraining: a shard of documents in, a trained model out."""

from pathlib import Path

import torch

from coderv2.data.shards import Shard
from coderv2.model.config import ModelConfig
from coderv2.model.transformer import Transformer
from coderv2.training.checkpoint import Progress
from coderv2.training.config import RunConfig
from coderv2.training.loop import train


def pretrain(
    config: ModelConfig, shard: Path, run: RunConfig, folder: Path, *, device: str, dtype: torch.dtype
) -> tuple[Transformer, Progress]:
    """A model trained from random weights (normal, `initializer_range`), or from the state kept in `folder`.

    It computes in `dtype` on `device`; the optimiser keeps float32 masters either way.
    """
    model = Transformer(config).initialise(config.initializer_range, run.seed).to(device, dtype)
    return model, train(model, Shard(shard), run, folder)
