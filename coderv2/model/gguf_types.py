"""Which number type each tensor of an exported file gets: llama-quantize's own choices, fallbacks included."""

import re
from dataclasses import dataclass

from coderv2.kernels.ggml import TYPES

_COLUMNS = {kind.name: kind.columns for kind in TYPES.values()}
_NARROWER_BLOCKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""For rows that are no multiple of 256."""


@dataclass(frozen=True)
class FileType:
    """A mixture of types, by the name that people know it by."""

    name: str
    number: int
    """`general.file_type`."""
    matrices: str
    """For most of them."""
    better: str | None = None
    """For down-projections in every third layer, the first and the last eighth; and for the logits."""


FILE_TYPES = {
    one.name: one
    for one in (
        FileType("f32", 0, "F32"),
        FileType("bf16", 32, "BF16"),
        FileType("q8_0", 7, "Q8_0"),
        FileType("q6_k", 18, "Q6_K"),
        FileType("q5_k_m", 17, "Q5_K", "Q6_K"),
        FileType("q4_k_m", 15, "Q4_K", "Q6_K"),
    )
}


def type_of(file_type: FileType, name: str, shape: tuple[int, ...], layers: int, experts: int) -> str:
    """The type of the tensor `name` of a model with so many layers, and experts in each."""
    if len(shape) == 1 or "ffn_gate_inp" in name:
        return "F32"
    if file_type.matrices in ("F32", "BF16"):
        return file_type.matrices
    if name == "output.weight":
        wanted = (
            "Q8_0" if shape[-1] % _COLUMNS[file_type.matrices] else file_type.better or file_type.matrices
        )
    else:
        wanted = _wanted(file_type, name, layers, experts)
    return _fitting(wanted, shape[-1])


def _wanted(file_type: FileType, name: str, layers: int, experts: int) -> str:
    if "ffn_down" in name and file_type.better and _gets_more_bits(_layer(name), layers):
        return file_type.better
    if "attn_output" in name and file_type.name == "q4_k_m" and experts == 8:
        return (
            "Q5_K"  # so they do since Mixtral, whose eight experts leave attention a small part of the whole
        )
    return file_type.matrices


def _layer(name: str) -> int:
    match = re.match(r"blk\.(\d+)\.", name)
    return int(match[1]) if match else 0


def _gets_more_bits(layer: int, layers: int) -> bool:
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _fitting(wanted: str, columns: int) -> str:
    if columns % _COLUMNS[wanted]:
        wanted = _NARROWER_BLOCKS.get(wanted, wanted)
    return "F16" if columns % _COLUMNS[wanted] else wanted
