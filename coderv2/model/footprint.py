"""What the weights of a checkpoint's folder take in memory, from how they lie there: nothing of them is read.

Their files' headers say it. Where only the config is here, as of a hub name that is not fetched, it says which
matrices are FP8: all but the vocabulary, the routers, and what it leaves out by name.
"""

import math
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import torch

from coderv2.kernels.formats import FORMATS, Format
from coderv2.kernels.layout import FP8_SPAN
from coderv2.model.checkpoint import Checkpoint, quantisation, scale_block
from coderv2.model.config import ModelConfig
from coderv2.model.folder import alike_together, own_dtype
from coderv2.model.pack import exact_format, placed_shapes, slots
from coderv2.model.published import meta_model, parts, published_tensors

_WIDE = re.compile(r".*(embed_tokens|lm_head|mlp\.gate|norm)\.weight")
_LEFT_OUT = ("ignore", "ignored_layers", "modules_to_not_convert")
"""Names that compressed-tensors, vLLM and Transformers have for the modules that stay wide."""


class Headers(Protocol):
    """What is known of published tensors."""

    def is_fp8(self, name: str) -> bool:
        """Whether it is codes and scales."""

    def rows_alike(self, name: str) -> int:
        """Rows of an FP8 tensor that share scales from its first row on: 128, or 1 where some of these may differ."""


class Described:
    """What a config alone says."""

    def __init__(self, config: ModelConfig, folder: Path) -> None:
        """Raises Unsupported for other quantised checkpoints than FP8."""
        self._given = quantisation(config)
        scale_block(config, folder)
        self._left_out = [name for key in _LEFT_OUT for name in self._given.get(key) or ()]

    def is_fp8(self, name: str) -> bool:
        """By the published rule."""
        module = name.removesuffix(".weight")
        left_out = _WIDE.fullmatch(name) or any(_names(entry, module) for entry in self._left_out)
        return bool(self._given) and not left_out

    def rows_alike(self, name: str) -> int:
        """The same for all tensors."""
        groups: dict[str, Any] = self._given.get("config_groups") or {}
        by_row = any((group.get("weights") or {}).get("strategy") == "channel" for group in groups.values())
        return 1 if by_row else FP8_SPAN


def _names(entry: str, module: str) -> bool:
    """Whether it names this module, or one that holds it."""
    if entry.startswith("re:"):
        return re.match(entry[3:], module) is not None
    return f"{module}.".startswith(f"{entry}.")


def open_headers(folder: Path, config: ModelConfig, stack: ExitStack) -> Headers:
    """The folder's files, checked whole and closed with `stack`, or what its config says where there are none."""
    if not any(folder.glob("*.safetensors")):
        return Described(config, folder)
    shapes = {name: tuple(tensor.shape) for name, tensor in published_tensors(meta_model(config))}
    return Checkpoint(folder, shapes, stack)


def fp8_rows(config: ModelConfig, headers: Headers) -> dict[str, int]:
    """Of matrices that stay FP8 on a GPU: rows that share scales, 128 or 1."""
    return alike_together(meta_model(config), lambda ours: _rows_alike(headers, ours, config))


def _rows_alike(headers: Headers, ours: str, config: ModelConfig) -> int:
    """Of a parameter of ours; 0 where it is not FP8 as a whole."""
    names = [name for name, _ in parts(ours, torch.empty(config.n_routed_experts, device="meta"))]
    return min(headers.rows_alike(name) if headers.is_fp8(name) else 0 for name in names)


def packed_bytes(config: ModelConfig, headers: Headers) -> int:
    """What the weights take in the CPU kernels' order, FP8 as it is and all else in the config's number format."""
    total, wide = 0, own_dtype(config)
    for module, name, ours, shape in slots(meta_model(config)):
        rows = _rows_alike(headers, ours, config)
        kept = FORMATS["fp8" if rows else exact_format(ours, wide)]
        for part, placed in placed_shapes(module, name, shape).items():
            # Keys the other way round stay FP8 only where rows share their scales.
            total += _bytes(placed, FORMATS["bf16"] if part == "key_absorb" and rows == 1 else kept)
    return total


def _bytes(shape: tuple[int, ...], kept: Format) -> int:
    """Of vectors, which become float32, and of matrices and stacks of them."""
    *stack, O, I = (1, *shape)
    return 4 * I if len(shape) == 1 else math.prod(stack) * kept.bytes(O, I)
