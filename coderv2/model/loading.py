"""A model and its tokenizer from wherever they lie: a checkpoint's folder, a packed one, or a GGUF file."""

from contextlib import ExitStack
from pathlib import Path

import torch

from coderv2.errors import Unsupported
from coderv2.kernels import cpu
from coderv2.kernels.scaled import Kind
from coderv2.model import checkpoint, gguf, packed_file, weights
from coderv2.model.checkpoint import quantisation
from coderv2.model.config import ModelConfig
from coderv2.model.folder import FolderSource, own_dtype
from coderv2.model.offload import Divider, divide, fill
from coderv2.model.parallel import Team
from coderv2.model.placement import Placement
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
    placement: Placement | None = None,
) -> Transformer:
    """The model, to be run and not trained: on the CPU its weights are packed, where our kernels are built.

    `dtype` None leaves quantised weights as they are, and takes of other checkpoints what runs best (`auto_dtype`).
    Of a `team` every rank opens its own part; `scaled` rounds a folder's weights to fewer bits, on a GPU. With a
    `placement` routed experts lie partly in RAM, and on `device` everything is plain or `scaled`.
    """
    weights.check_dtype(dtype)
    on_cpu = torch.device(device).type == "cpu"
    if on_cpu or placement is not None:
        cpu.warn_if_absent()
        cpu.keep_memory()
    if placement is not None:
        return _open_divided(path, placement, dtype, torch.device(device), progress, scaled)
    if is_gguf(path) or is_packed(path):
        _check_quants(path, dtype, device, scaled)
        load = gguf.load if is_gguf(path) else packed_file.load
        return load(path, dtype=dtype, progress=progress, team=team).to(device)
    if scaled is not None and on_cpu:
        raise _not_rounded(scaled)
    packed, stored = on_cpu and cpu.kernels is not None, not on_cpu and keeps_fp8(path, dtype, scaled)
    dtype = dtype or weights.auto_dtype(path, device)
    return weights.load(
        path,
        dtype=dtype,
        device=device,
        progress=progress,
        packed=packed,
        scaled=scaled,
        stored=stored,
        team=team,
    )


def grain(path: Path, dtype: torch.dtype | None = None, scaled: Kind | None = None) -> int:
    """At multiples of what ranks can cut the widths of this model's feed-forwards (`Split.grain`)."""
    if is_gguf(path):
        return gguf.grain(path)
    if is_packed(path):
        return packed_file.grain(path)
    with ExitStack() as stack:
        return FolderSource(path, stack).grain if keeps_fp8(path, dtype, scaled) else 1


def keeps_fp8(path: Path, dtype: torch.dtype | None, scaled: Kind | None) -> bool:
    """True where FP8 of a checkpoint's folder stays what it is: unless another type is wanted."""
    if is_gguf(path) or is_packed(path) or dtype is not None or scaled == "int4":
        return False
    return bool(quantisation(ModelConfig.from_folder(path)))


def _open_divided(
    path: Path,
    placement: Placement,
    dtype: torch.dtype | None,
    device: torch.device,
    progress: bool,
    scaled: Kind | None,
) -> Transformer:
    if is_packed(path):
        model = packed_file.load(path, progress=progress, settles=False)
        return divide(model, Divider(placement, device, dtype or torch.bfloat16, scaled, borrowed=True))
    with ExitStack() as stack:
        source = open_source(path, stack)
        keeps = keeps_fp8(path, dtype, scaled)
        stay = source.stored(scaled, device) if keeps and isinstance(source, FolderSource) else {}
        divider = Divider(placement, device, dtype or source.dtype, scaled, stay)
        return fill(source, divider, packed=is_gguf(path) or (keeps and scaled is None), progress=progress)


def _check_quants(
    path: Path, dtype: torch.dtype | None, device: torch.device | str, scaled: Kind | None
) -> None:
    """Unsupported where a file of quants cannot be opened so."""
    if scaled is not None:
        raise _not_rounded(scaled)
    if dtype is None and torch.device(device).type != "cpu":
        raise Unsupported(
            f"{path}: quants run on the CPU; give a dtype to have them written out for {device}, or a placement"
        )


def _not_rounded(scaled: Kind) -> Unsupported:
    return Unsupported(
        f"quantization {scaled} is for safetensors on a GPU; on the CPU, open a GGUF file",
        param="quantization",
    )


def open_plain(path: Path, *, dtype: torch.dtype | None = None, progress: bool = False) -> Transformer:
    """The model with plain parameters, to be written again; `dtype` None: the checkpoint's own, of quants bfloat16."""
    if is_gguf(path):
        return gguf.load(path, dtype=dtype or gguf.own_dtype(path), progress=progress)
    if is_packed(path):
        own = own_dtype(ModelConfig.from_folder(path))
        return packed_file.load(path, dtype=dtype or own, progress=progress)
    return weights.load(path, dtype=dtype, progress=progress)


def open_source(path: Path, stack: ExitStack) -> FolderSource | gguf.Source:
    """The model one parameter at a time; its files are closed with `stack`. Unsupported for what is packed already."""
    if is_gguf(path):
        return gguf.Source(path, stack)
    if is_packed(path):
        raise Unsupported(f"{path}: packed already; convert from the checkpoint that it was made of")
    return FolderSource(path, stack)


def open_config(path: Path) -> ModelConfig:
    """Shapes and constants only."""
    return gguf.read_config(path) if is_gguf(path) else ModelConfig.from_folder(path)


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer that came with it."""
    return gguf.read_tokenizer(path) if is_gguf(path) else Tokenizer.from_folder(path)
