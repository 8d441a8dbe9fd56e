"""Shards of tokens that a tiny model can learn something from."""

from pathlib import Path

from coderv2.data import shards


def counting_shard(folder: Path, examples: int = 12, length: int = 20) -> Path:
    """Examples that count upwards from different numbers, so that the next token is always known."""
    shards.write(folder, ([first + i for i in range(length)] for first in range(examples)), 600)
    return folder
