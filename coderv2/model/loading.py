"""A model and its tokenizer from wherever they lie: a checkpoint's folder or a GGUF file."""

from pathlib import Path

import torch

from coderv2.model import gguf, weights
from coderv2.model.transformer import Transformer
from coderv2.text.tokenizer import Tokenizer


def is_gguf(path: Path) -> bool:
    """By its name."""
    return path.suffix == ".gguf"


def open_model(
    path: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Transformer:
    """The model. `dtype` None leaves a GGUF file's weights packed as they are."""
    if is_gguf(path):
        model = gguf.load(path, dtype=dtype, progress=progress)
        return model if dtype is None else model.to(device)
    return weights.load(path, dtype=dtype, device=device, progress=progress)


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer that came with it."""
    return gguf.tokenizer(path) if is_gguf(path) else Tokenizer.from_folder(path)
