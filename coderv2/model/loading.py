"""A model and its tokenizer from wherever they lie: a checkpoint's folder or a GGUF file."""

from pathlib import Path

import torch

from coderv2.errors import Unsupported
from coderv2.kernels import cpu
from coderv2.kernels.scaled import Kind
from coderv2.model import gguf, weights
from coderv2.model.config import ModelConfig
from coderv2.model.parallel import Team
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
    scaled: Kind | None = None,
    team: Team | None = None,
) -> Transformer:
    """The model, to be run and not trained: on the CPU its weights are packed, where our kernels are built.

    `dtype` None leaves a GGUF file's quants as they are, and takes of a checkpoint what runs best (`auto_dtype`). Of a
    `team` every rank opens its own part; `scaled` rounds a folder's weights to fewer bits, on a GPU.
    """
    on_cpu = torch.device(device).type == "cpu"
    if scaled is not None and (on_cpu or is_gguf(path)):
        raise Unsupported(
            f"quantization {scaled} is for safetensors on a GPU; on the CPU, open a GGUF file",
            param="quantization",
        )
    if not is_gguf(path):
        dtype = dtype or weights.auto_dtype(path, device)
        # The C++ kernels know no experts of others.
        packed = on_cpu and cpu.kernels is not None and (team is None or team.split.experts == "cut")
        return weights.load(
            path, dtype=dtype, device=device, progress=progress, packed=packed, scaled=scaled, team=team
        )
    if team is not None:
        raise Unsupported(
            f"{path}: quants of a GGUF file are not cut into parts; give a folder with safetensors"
        )
    if dtype is None and not on_cpu:
        raise Unsupported(
            f"{path}: quants run on the CPU so far; give a dtype to have them written out for {device}"
        )
    return gguf.load(path, dtype=dtype, progress=progress).to(device)


def open_config(path: Path) -> ModelConfig:
    """Shapes and constants only."""
    return gguf.read_config(path) if is_gguf(path) else ModelConfig.from_folder(path)


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer that came with it."""
    return gguf.tokenizer(path) if is_gguf(path) else Tokenizer.from_folder(path)
