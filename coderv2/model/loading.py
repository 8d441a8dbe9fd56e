"""A model and its tokenizer from wherever they lie: a checkpoint's folder, a packed one, or a GGUF file."""

from contextlib import ExitStack
from pathlib import Path

import torch

from coderv2.errors import Unsupported
from coderv2.kernels import cpu
from coderv2.kernels.scaled import Kind
from coderv2.model import checkpoint, gguf, packed_file, weights
from coderv2.model.config import ModelConfig
from coderv2.model.parallel import Team
from coderv2.model.transformer import Transformer
from coderv2.text.tokenizer import Tokenizer


def is_gguf(path: Path) -> bool:
    """By its name."""
    return path.suffix == ".gguf" and not path.is_dir()


def is_packed(path: Path) -> bool:
    """Whether the folder's config says that its weights are in kernel order."""
    return not is_gguf(path) and checkpoint.is_packed(ModelConfig.from_folder(path))


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

    `dtype` None leaves quantised weights as they are, and takes of other checkpoints what runs best (`auto_dtype`).
    Of a `team` every rank opens its own part; `scaled` rounds a folder's weights to fewer bits, on a GPU.
    """
    on_cpu = torch.device(device).type == "cpu"
    if on_cpu:
        cpu.warn_if_absent()
        cpu.keep_memory()
    if is_gguf(path) or is_packed(path):
        _check_quants(path, dtype, device, scaled, team)
        load = gguf.load if is_gguf(path) else packed_file.load
        return load(path, dtype=dtype, progress=progress).to(device)
    if scaled is not None and on_cpu:
        raise _not_rounded(scaled)
    dtype = dtype or weights.auto_dtype(path, device)
    # The C++ kernels know no experts of others.
    packed = on_cpu and cpu.kernels is not None and (team is None or team.split.experts == "cut")
    return weights.load(
        path, dtype=dtype, device=device, progress=progress, packed=packed, scaled=scaled, team=team
    )


def _check_quants(
    path: Path, dtype: torch.dtype | None, device: torch.device | str, scaled: Kind | None, team: Team | None
) -> None:
    """Unsupported where a file of quants cannot be opened so."""
    if scaled is not None:
        raise _not_rounded(scaled)
    if team is not None:
        raise Unsupported(f"{path}: quants are not cut into parts; give a folder with plain safetensors")
    if dtype is None and torch.device(device).type != "cpu":
        raise Unsupported(
            f"{path}: quants run on the CPU so far; give a dtype to have them written out for {device}"
        )


def _not_rounded(scaled: Kind) -> Unsupported:
    return Unsupported(
        f"quantization {scaled} is for safetensors on a GPU; on the CPU, open a GGUF file",
        param="quantization",
    )


def open_plain(path: Path, *, dtype: torch.dtype | None = None, progress: bool = False) -> Transformer:
    """The model with plain parameters, to be written again; `dtype` None is the checkpoint's own, or bfloat16."""
    if is_gguf(path):
        return gguf.load(path, dtype=dtype or torch.bfloat16, progress=progress)
    if is_packed(path):
        return packed_file.load(path, dtype=dtype or torch.bfloat16, progress=progress)
    return weights.load(path, dtype=dtype, progress=progress)


def open_source(path: Path, stack: ExitStack) -> weights.FolderSource | gguf.Source:
    """The model one parameter at a time; its files are closed with `stack`. Unsupported for what is packed already."""
    if is_gguf(path):
        return gguf.Source(path, stack)
    if is_packed(path):
        raise Unsupported(f"{path}: packed already; convert from the checkpoint that it was made of")
    return weights.FolderSource(path, stack)


def open_config(path: Path) -> ModelConfig:
    """Shapes and constants only."""
    return gguf.read_config(path) if is_gguf(path) else ModelConfig.from_folder(path)


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer that came with it."""
    return gguf.read_tokenizer(path) if is_gguf(path) else Tokenizer.from_folder(path)
