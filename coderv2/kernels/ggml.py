"""The number types of GGUF files: their sizes, and what each becomes in kernel order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coderv2.errors import Unsupported
from coderv2.kernels import packing
from coderv2.kernels.cpu import kernels
from coderv2.kernels.formats import FORMATS, Weight
from coderv2.kernels.memory import empty_bytes


@dataclass(frozen=True)
class GgmlType:
    """One type; a block is the least number of columns that stands by itself."""

    name: str
    columns: int
    bytes: int
    format: str
    """What it is packed as: nothing is lost."""
    floats: tuple[int, ...] = ()
    """Where in a block its float16 scales (and minima) stand."""

    @property
    def grows(self) -> bool:
        """Whether it takes more memory packed: there is no kernel for exactly this type."""
        return FORMATS[self.format].bits > self.bytes * 8 / self.columns

    def size(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor; its last axis is a multiple of `columns`."""
        return math.prod(shape) // self.columns * self.bytes


TYPES = {
    0: GgmlType("F32", 1, 4, "f32"),
    1: GgmlType("F16", 1, 2, "f32"),  # no smaller format of ours holds every float16
    2: GgmlType("Q4_0", 32, 18, "q4_flat", (0,)),
    3: GgmlType("Q4_1", 32, 20, "q4_flat_min", (0, 2)),
    6: GgmlType("Q5_0", 32, 22, "q5_flat", (0,)),
    7: GgmlType("Q5_1", 32, 24, "q5_flat_min", (0, 2)),
    8: GgmlType("Q8_0", 32, 34, "int8", (0,)),
    10: GgmlType("Q2_K", 256, 84, "q4_two_min", (80, 82)),
    11: GgmlType("Q3_K", 256, 110, "q4_two", (108,)),
    12: GgmlType("Q4_K", 256, 144, "int4", (0, 2)),
    13: GgmlType("Q5_K", 256, 176, "q5_two", (0, 2)),
    14: GgmlType("Q6_K", 256, 210, "q6_two", (208,)),
    20: GgmlType("IQ4_NL", 32, 18, "int8", (0,)),
    23: GgmlType("IQ4_XS", 256, 136, "q8_two", (0,)),
    30: GgmlType("BF16", 1, 2, "bf16"),
}
"""By the number that files use."""

_AT_A_TIME = 1 << 20  # numbers: looking at a whole tensor takes it three times more
_NOT_FINITE = 1  # an outcome in cpu/pack.cpp
_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class NotFinite(ValueError):
    """Raised where a tensor holds NaN or infinities."""


def part(number: int, data: Tensor, shape: Sequence[int], ranges: Sequence[range]) -> Tensor:
    """The bytes of so much of each axis, which may be a view; ValueError where a block would come apart."""
    kind, (*rows, columns) = TYPES[number], ranges
    if columns.start % kind.columns or columns.stop % kind.columns:
        raise ValueError(
            f"{columns.start} to {columns.stop} of {shape[-1]} cannot be taken out: {kind.columns} lie together"
        )
    blocks = data.view(*shape[:-1], shape[-1] // kind.columns, kind.bytes)
    kept = (*rows, range(columns.start // kind.columns, columns.stop // kind.columns))
    return blocks[tuple(slice(own.start, own.stop) for own in kept)].flatten()


def pack(number: int, data: Tensor, shape: tuple[int, ...]) -> Weight:
    """A tensor's bytes (its shape outermost first) in kernel order; every number stays what it is.

    Raises NotFinite, and Unsupported where quants would need the kernels.
    """
    kind = TYPES[number]
    if kind.name in _PLAIN:
        if not is_finite(number, data):
            raise NotFinite
        return packing.pack(plain(number, data, shape), kind.format)
    return _quants(number, shape, "pack_ggml", data.data_ptr())


def pack_from(file: int, offset: int, number: int, shape: tuple[int, ...]) -> Weight:
    """The same of quants in an open file (its descriptor), which are read piece by piece; EOFError where it ends."""
    return _quants(number, shape, "pack_ggml_file", file, offset)


def _quants(number: int, shape: tuple[int, ...], function: str, *source: int) -> Weight:
    kind = TYPES[number]
    if kernels is None:
        raise Unsupported(
            f"{kind.name} of a GGUF file is unpacked by the CPU kernels, which were not built; install a C++ "
            "compiler and reinstall"
        )
    *stack, O, I = shape
    matrices, format = math.prod(stack), FORMATS[kind.format]
    packed = empty_bytes(matrices * format.bytes(O, I))
    # NaN is looked for on the way, since a pass of its own takes as long as reading the file.
    outcome = getattr(kernels, function)(number, *source, matrices, O, I, packed.data_ptr())
    if outcome:
        raise NotFinite if outcome == _NOT_FINITE else EOFError
    return Weight(format, shape, packed.view(*stack, -1) if stack else packed)


def plain(number: int, data: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor that is not quantised."""
    dtype = _PLAIN[TYPES[number].name]
    aligned = data if data.data_ptr() % dtype.itemsize == 0 else data.clone()
    return aligned.view(dtype).view(shape)


def is_finite(number: int, data: Tensor) -> bool:
    """Whether a tensor's bytes hold no NaN and no infinity."""
    kind = TYPES[number]
    if kind.name in _PLAIN:
        numbers = plain(number, data, (data.numel() // kind.bytes,))
        return all(bool(part.isfinite().all()) for part in numbers.split(_AT_A_TIME))
    blocks_Nx = data.view(-1, kind.bytes)
    # A float16 that is none has all the bits of its exponent set: five of its upper byte.
    return not any(bool(((blocks_Nx[:, at + 1] & 0x7C) == 0x7C).any()) for at in kind.floats)


def written_out(number: int) -> str:
    """The format for numbers that quants cannot follow: where the type has none, they stay what they are."""
    return "f32" if TYPES[number].name in ("F32", "F16") else "bf16"


def unpack(number: int, data: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Any tensor of a file as float32."""
    if TYPES[number].name in _PLAIN:
        return plain(number, data, shape).float()
    return packing.unpack(pack(number, data, shape if len(shape) > 1 else (1, *shape))).view(shape)
