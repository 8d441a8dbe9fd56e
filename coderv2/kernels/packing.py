"""Matrices into kernel order and back: `rounding` says what numbers become, `layout` where they lie.

The C++ kernels do the same faster (`cpu/round.cpp`, `cpu/pack.cpp`), bit for bit; without them those two are what runs.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from coderv2.errors import InvalidValue
from coderv2.kernels.cpu import kernels
from coderv2.kernels.formats import FORMATS, ROWS, Format, Weight
from coderv2.kernels.layout import (
    FP8_SPAN,
    assemble,
    bf16_bytes,
    disassemble,
    f32_bytes,
    filled,
    fp8_bytes,
    fp8_parts,
    numbers,
    plain_numbers,
)
from coderv2.kernels.memory import empty_bytes
from coderv2.kernels.rounding import nearest_fp8, nearest_int4, nearest_int8


def pack(tensor: Tensor, name: str) -> Weight:
    """A matrix [O, I] or stack [E, O, I] rounded to the format `name`.

    Raises InvalidValue for NaN, infinities, and numbers whose scale float16 cannot hold, where the format is quantised;
    bf16 and f32 carry NaN and infinities along.
    """
    if name not in _ENCODERS:
        raise InvalidValue(f"nothing is rounded to {name}; one of {', '.join(_ENCODERS)}")
    if (most := _MOST.get(name)) is not None:
        _check_range(tensor, name, most)
    return _packed_natively(tensor, name) if kernels is not None else pack_plainly(tensor, name)


def pack_plainly(tensor: Tensor, name: str) -> Weight:
    """`pack` in PyTorch, for numbers in range."""
    matrices = tensor.flatten(0, -3) if tensor.dim() > 2 else tensor[None]
    rows = [_ENCODERS[name](filled(matrix)) for matrix in matrices]
    data = torch.stack(rows) if tensor.dim() > 2 else rows[0]
    return Weight(FORMATS[name], tuple(tensor.shape), data)


def _packed_natively(tensor: Tensor, name: str) -> Weight:
    *stack, O, I = tensor.shape
    source = (tensor if tensor.dtype == torch.bfloat16 else tensor.float()).contiguous()
    format, E = FORMATS[name], math.prod(stack)
    data = empty_bytes(E * format.bytes(O, I))
    bf16 = source.dtype == torch.bfloat16
    kernels.pack_plain(format.code, bf16, source.data_ptr(), E, O, I, data.data_ptr())
    return Weight(format, (*stack, O, I), data.view(*stack, -1) if stack else data)


def _check_range(tensor: Tensor, name: str, most: float) -> None:
    low, high = (float(bound) for bound in torch.aminmax(tensor)) if tensor.numel() else (0.0, 0.0)
    # Written so that NaN fails as well.
    if not (-most <= low and high <= most):
        raise InvalidValue(f"{name} holds finite numbers up to ±{most:g}; these go from {low:g} to {high:g}")


def unpack(weight: Weight) -> Tensor:
    """The numbers as float32, in the weight's shape."""
    return unpack_plainly(weight) if kernels is None else _unpacked_natively(weight)


def unpack_plainly(weight: Weight) -> Tensor:
    """`unpack` in PyTorch."""
    O, I = weight.shape[-2:]
    matrices = [_decode(data, weight.format, O, I) for data in weight.data.reshape(-1, weight.data.shape[-1])]
    return torch.stack(matrices).view(weight.shape)


def _unpacked_natively(weight: Weight) -> Tensor:
    *stack, O, I = weight.shape
    data, out = weight.data.contiguous(), torch.empty(weight.shape)
    kernels.unpack(weight.format.code, data.data_ptr(), math.prod(stack), O, I, out.data_ptr())
    return out


def unpack_rows(weight: Weight, rows_N: Tensor) -> Tensor:
    """Some rows of a matrix [O, I] as float32, [N, I]: what a token embedding is."""
    if not len(rows_N):
        return torch.empty(0, weight.shape[1])
    blocks_BX = weight.data.view(-(-weight.shape[0] // ROWS), -1)
    chosen = blocks_BX[rows_N // ROWS]
    whole = _decode(chosen.flatten(), weight.format, len(rows_N) * ROWS, weight.shape[1])
    return whole[torch.arange(len(rows_N)) * ROWS + rows_N % ROWS]


def _decode(data: Tensor, format: Format, O: int, I: int) -> Tensor:
    if format.scales == "none":
        return plain_numbers(data, format, O)[:O, :I].float()
    if format.scales == "fp8":
        return _decode_fp8(data, O, I)[:O, :I]
    return numbers(format, disassemble(data, format, O, I))[:O, :I]


def _decode_fp8(data: Tensor, O: int, I: int) -> Tensor:
    codes_OI, scales_OS = fp8_parts(data, O, I)
    return codes_OI.float() * scales_OS.repeat_interleave(FP8_SPAN, 1)[:, : codes_OI.shape[1]]


def unpack_fp8(weight: Weight) -> tuple[Tensor, Tensor]:
    """The reverse of `pack_fp8`, codes as e4m3."""
    *stack, O, I = weight.shape
    parts = [fp8_parts(data, O, I) for data in weight.data.reshape(-1, weight.data.shape[-1])]
    # Bytes, since PyTorch stacks no fp8 of some versions.
    codes = torch.stack([one.view(torch.uint8)[:O, :I] for one, _ in parts]).view(torch.float8_e4m3fn)
    scales = torch.stack([one[:O] for _, one in parts])
    return codes.view(*stack, O, I), scales.view(*stack, O, -1)


def pack_fp8(codes: Tensor, scales: Tensor) -> Weight:
    """FP8 as it was stored: e4m3 numbers [..., O, I] in any float type, and what each row's 128 columns are multiplied
    with, float32 [..., O, S]. Nothing is rounded."""
    *stack, O, I = codes.shape
    pairs = zip(codes.reshape(-1, O, I), scales.reshape(-1, O, scales.shape[-1]), strict=True)
    data = torch.stack([fp8_bytes(filled(c), F.pad(s, (0, 0, 0, -O % ROWS))) for c, s in pairs])
    return Weight(FORMATS["fp8"], (*stack, O, I), data.view(*stack, -1) if stack else data[0])


_HALF_MOST = 65504.0
_MOST = {"fp8": torch.finfo(torch.float32).max, "int8": 127 * _HALF_MOST, "int4": 128 * _HALF_MOST}
"""What the scale of a group still reaches."""

_ENCODERS: dict[str, Callable[[Tensor], Tensor]] = {
    "f32": f32_bytes,
    "bf16": bf16_bytes,
    "fp8": lambda x_OI: fp8_bytes(*nearest_fp8(x_OI)),
    "int8": lambda x_OI: assemble(FORMATS["int8"], nearest_int8(x_OI)),
    "int4": lambda x_OI: assemble(FORMATS["int4"], nearest_int4(x_OI)),
}
