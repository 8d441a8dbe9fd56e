"""A folder of safetensors, opened and checked whole: which file holds which published tensor, and FP8 with its scales.

FP8 checkpoints are read in the layouts that exist of this architecture: `weight_scale_inv`, a scale for each block of
128 x 128 (DeepSeek's own), and `weight_scale`, one for the tensor or for each row (compressed-tensors, vLLM's fp8).
`input_scale`, one for what a matrix is multiplied with, is for who rounds activations too.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from coderv2.errors import BadCheckpoint, Unsupported
from coderv2.kernels.layout import FP8_SPAN
from coderv2.model.config import ModelConfig
from coderv2.model.tensorfile import Entry, TensorFile

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
FP8 = "F8_E4M3"
PACKED = "coderv2"
"""The `quant_method` of our own packed folders (`packed_file`)."""
_BLOCK = (128, 128)
_SCALES = ("weight_scale_inv", "weight_scale")
_INPUT_SCALE = "input_scale"
# Buffers that old checkpoints carry and nothing needs, and scales of activations, which not everybody needs.
_OPTIONAL = re.compile(rf".*\.(rotary_emb\.inv_freq|{_INPUT_SCALE})")


def quantisation(config: ModelConfig) -> Mapping[str, Any]:
    """`quantization_config` of config.json; empty where there is none."""
    found = config.extra.get("quantization_config") or {}
    if not isinstance(found, Mapping):
        raise BadCheckpoint(f"config.json: quantization_config is {found!r}, not an object")
    return found


def without_quantisation(config: ModelConfig) -> ModelConfig:
    """The same model, its weights stored as any."""
    return replace(config, extra={k: v for k, v in config.extra.items() if k != "quantization_config"})


def is_packed(config: ModelConfig) -> bool:
    """Whether the folder's weights lie in kernel order."""
    return quantisation(config).get("quant_method") == PACKED


class Checkpoint:
    """An open folder; `shapes` are what the config calls for, by published name."""

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, ...]], stack: ExitStack) -> None:
        """Files are closed with `stack`. Raises BadCheckpoint or Unsupported, which name file and tensor."""
        config = ModelConfig.from_folder(folder)
        self._block = scale_block(config, folder)
        self._files = _open_files(folder, stack)
        self._check(folder, shapes)

    def entry(self, name: str) -> Entry:
        """Where a tensor lies."""
        return self._files[name].entries[name]

    def is_fp8(self, name: str) -> bool:
        """Whether it is codes and scales."""
        return self.entry(name).dtype == FP8

    def read_into(
        self, name: str, target: Tensor, part: Callable[[Tensor], Tensor] = lambda whole: whole
    ) -> None:
        """Copies a tensor's numbers, or a `part` of them, into `target`, FP8 ones multiplied with their scales."""
        self._files[name].read_into(name, target, part)
        if self.is_fp8(name):
            columns = self.entry(name).shape[1]
            wide_OI = self.scales(name).repeat_interleave(FP8_SPAN, 1)[:, :columns]
            # The codes themselves fit any format; the product is rounded once.
            target.copy_(target.float() * part(wide_OI).to(target.device))
            if not bool(target.isfinite().all()):
                raise BadCheckpoint(f"{self._files[name].path}: {name} with its scales is not finite")

    def read_codes_into(
        self, name: str, target: Tensor, part: Callable[[Tensor], Tensor] = lambda whole: whole
    ) -> None:
        """An FP8 tensor's codes as numbers, without their scales, or a `part` of them."""
        self._files[name].read_into(name, target, part)

    def scales(self, name: str) -> Tensor:
        """Of an FP8 tensor [O, I]: float32 for each row and 128 columns, [O, S]."""
        scale_name = self._scale_name(name)
        O, I = self.entry(name).shape
        raw = torch.empty(self.entry(scale_name).shape)
        self._files[scale_name].read_into(scale_name, raw)
        if self._one_for(name) == "block":
            return self._by_block(scale_name, raw, O, I)
        return raw.reshape(-1, 1).expand(O, -(-I // FP8_SPAN)).contiguous()

    def rows_alike(self, name: str) -> int:
        """Rows of an FP8 tensor that share scales from its first row on: 128, or 1 where some of these may differ."""
        of = self._one_for(name)
        return FP8_SPAN if of == "tensor" or (of == "block" and self._block[0] % FP8_SPAN == 0) else 1

    def columns_alike(self, name: str) -> int:
        """Columns of an FP8 tensor that share a scale from its first on: 128, or 0 where all of a row do."""
        return FP8_SPAN if self._one_for(name) == "block" else 0

    def input_scale(self, name: str) -> float | None:
        """What activations are divided by before they are multiplied with an FP8 tensor, if the checkpoint says so."""
        scale_name = name.removesuffix("weight") + _INPUT_SCALE
        if scale_name not in self._files:
            return None
        raw = torch.empty(self.entry(scale_name).shape)
        self._files[scale_name].read_into(scale_name, raw)
        if raw.numel() != 1 or float(raw) <= 0:
            raise BadCheckpoint(f"{self._files[scale_name].path}: {scale_name} is not one number above 0")
        return float(raw)

    def _one_for(self, name: str) -> Literal["tensor", "row", "block"]:
        """What of an FP8 tensor has one scale."""
        shape, O = self.entry(self._scale_name(name)).shape, self.entry(name).shape[0]
        if math.prod(shape) == 1:
            return "tensor"
        return "row" if shape in ((O,), (O, 1)) else "block"

    def _by_block(self, scale_name: str, raw: Tensor, O: int, I: int) -> Tensor:
        rows, columns = self._block
        wanted = (-(-O // rows), -(-I // columns))
        if tuple(raw.shape) != wanted:
            raise BadCheckpoint(
                f"{self._files[scale_name].path}: {scale_name} has shape {list(raw.shape)}; "
                f"blocks of {rows} x {columns} call for {list(wanted)}"
            )
        by_row_OS = raw.repeat_interleave(rows, 0)[:O].repeat_interleave(columns // FP8_SPAN, 1)
        return by_row_OS[:, : -(-I // FP8_SPAN)].contiguous()

    def _scale_name(self, name: str) -> str:
        stem = name.removesuffix("weight")
        return next(stem + one for one in _SCALES if stem + one in self._files)

    def _check(self, folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Every tensor that the config calls for is there in its shape, and none besides."""
        scales = set()
        for name, shape in shapes.items():
            if name not in self._files:
                raise BadCheckpoint(f"{folder}: {name} is missing (expected shape {list(shape)})")
            entry = self.entry(name)
            if entry.shape != shape:
                path = self._files[name].path
                raise BadCheckpoint(
                    f"{path}: {name} has shape {list(entry.shape)}, the config calls for {list(shape)}"
                )
            if entry.dtype == FP8:
                scales.add(self._checked_scale(name))
        for name in self._files.keys() - shapes.keys() - scales:
            if not _OPTIONAL.fullmatch(name):
                raise BadCheckpoint(f"{self._files[name].path}: {name} is not a tensor of this model")

    def _checked_scale(self, name: str) -> str:
        stem, path = name.removesuffix("weight"), self._files[name].path
        found = [stem + one for one in _SCALES if stem + one in self._files]
        if len(found) != 1 or len(self.entry(name).shape) != 2:
            raise BadCheckpoint(f"{path}: {name} is FP8 and needs one of {stem}{{{','.join(_SCALES)}}}")
        if self.is_fp8(found[0]):
            raise BadCheckpoint(f"{path}: {found[0]} is FP8 itself")
        return found[0]


def scale_block(config: ModelConfig, folder: Path) -> tuple[int, int]:
    """Rows and columns of a block of FP8 scales; Unsupported for other kinds of quantised checkpoints."""
    found = quantisation(config)
    method = found.get("quant_method", "fp8")
    if method == PACKED:
        way_out = f"`coderv2 convert {folder} OUT` writes them as safetensors first"
        raise Unsupported(f"{folder}: packed weights, which only what runs a model opens; {way_out}")
    if method not in ("fp8", "compressed-tensors"):
        raise Unsupported(
            f"{folder}: quantised by {method!r}; of safetensors this version reads wide ones and FP8"
        )
    block = found.get("weight_block_size") or _BLOCK
    pair = (
        isinstance(block, list | tuple) and len(block) == 2 and all(type(n) is int and n > 0 for n in block)
    )
    if not pair or block[1] % FP8_SPAN:
        raise Unsupported(
            f"{folder}: FP8 scales for blocks of {block}; their columns must be whole {FP8_SPAN}s"
        )
    return block[0], block[1]


def _open_files(folder: Path, stack: ExitStack) -> dict[str, TensorFile]:
    """Published tensor name → the open file that holds it."""
    found: dict[str, TensorFile] = {}
    listed = _listed_files(folder)
    for file_name, names in listed.items():
        path = folder / file_name
        if not path.is_file():
            raise BadCheckpoint(f"{path}: not found; the folder is incomplete")
        file = TensorFile(path)
        stack.callback(file.close)
        for name in names or file.entries:
            if name not in file.entries:
                raise BadCheckpoint(f"{path}: lacks {name}, which {INDEX} puts there")
            found[name] = file
        if names and (stray := file.entries.keys() - names):
            raise BadCheckpoint(f"{path}: holds {min(stray)}, which {INDEX} does not put there")
    return found


def _listed_files(folder: Path) -> dict[str, set[str]]:
    """File name → the tensors that the index puts there; without an index, one file and no list."""
    path = folder / INDEX
    if not path.exists():
        _check_single(folder)
        return {SINGLE: set()}
    try:
        weight_map = json.loads(path.read_text("utf-8"))["weight_map"]
        pairs = [(str(name), str(file)) for name, file in weight_map.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"{path}: not a usable index: {error!r}") from None
    listed: dict[str, set[str]] = {}
    for name, file in pairs:
        if not re.fullmatch(r"[\w.\-]+\.safetensors", file):
            raise BadCheckpoint(
                f"{path}: puts {name} in {file!r}; only safetensors files of this folder are read"
            )
        listed.setdefault(file, set()).add(name)
    return listed


def _check_single(folder: Path) -> None:
    if (folder / SINGLE).exists():
        return
    pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in folder.glob(pattern))
    if pickles:
        raise BadCheckpoint(
            f"{folder / pickles[0]}: a pickle file, which can run code and is never opened; convert it to safetensors"
        )
    raise BadCheckpoint(f"{folder}: holds neither {SINGLE} nor {INDEX}")
