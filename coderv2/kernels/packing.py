"""Matrices into kernel order and back, in plain PyTorch: the definition of every layout that `formats` draws.

The C++ kernels do the same faster (`cpu/round.cpp`, `cpu/pack.cpp`), bit for bit; without them this is what runs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from coderv2.errors import InvalidValue
from coderv2.kernels.cpu import kernels
from coderv2.kernels.formats import FORMATS, GROUP, ROWS, SUPER, Format, Weight
from coderv2.kernels.memory import empty_bytes

FP8_SPAN = 128


@dataclass(frozen=True)
class Parts:
    """What a quantised matrix is made of; S superblocks, G groups of 32 columns.

    Flat scales and minima are float16 [O, G]. Two-level ones are bytes [O, G] or [O, 2G], and `d`, `m`, float16 [O, S],
    are what they are multiplied by.
    """

    quants_OI: Tensor
    scales: Tensor
    minima: Tensor | None = None
    d_OS: Tensor | None = None
    m_OS: Tensor | None = None

    def int4_numbers(self) -> Tensor:
        """What these parts stand for as int4, float32 [O, I]."""
        scales, minima = effective(FORMATS["int4"], self)
        scale_OI, minimum_OI = (
            p.repeat_interleave(GROUP, 1)[:, : self.quants_OI.shape[1]] for p in (scales, minima)
        )
        return scale_OI * self.quants_OI - minimum_OI


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
    rows = [_ENCODERS[name](_filled(matrix)) for matrix in matrices]
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


def assemble(format: Format, parts: Parts) -> Tensor:
    """The bytes of one matrix; O and I need not be whole blocks and groups."""
    quants_OI = _filled(parts.quants_OI)
    B, G = quants_OI.shape[0] // ROWS, quants_OI.shape[1] // GROUP
    groups_BGx = torch.cat((*_scale_bytes(format, parts, B, G), _quant_bytes(format.bits, quants_OI)), -1)
    heads = [_lanes(part, B) for part in (parts.d_OS, parts.m_OS) if part is not None]
    return _interleave(groups_BGx, torch.cat(heads, -1) if heads else None)


def disassemble(data: Tensor, format: Format, O: int, I: int) -> Parts:
    """The parts of one matrix's bytes, whole blocks and groups of them."""
    B, G = -(-O // ROWS), -(-I // GROUP)
    two = format.scales.startswith("two")
    head = {"two": 64, "two_16": 32, "two_16_min": 64}.get(format.scales, 0)
    each = {"flat": 32, "flat_min": 64, "two": 32, "two_16": 32, "two_16_min": 64}[format.scales]
    groups_BGx, heads_BSx = _separate(data, B, G, head, each + ROWS * GROUP * format.bits // 8)
    scales_BGx, quants_BGx = groups_BGx[..., :each], groups_BGx[..., each:]
    halves = 2 if format.scales.startswith("two_16") else 1
    width = 16 * halves if two else 32
    kind = torch.int8 if format.scales == "two_16" else torch.uint8
    as_rows = _by_row_bytes if two else _by_row_halves
    return Parts(
        _quants(format.bits, quants_BGx),
        as_rows(scales_BGx[..., :width]).view(kind if two else torch.float16),
        as_rows(scales_BGx[..., width:]) if each > width else None,
        _by_row_halves(heads_BSx[..., :32]) if head else None,
        _by_row_halves(heads_BSx[..., 32:]) if head == 64 else None,
    )


def _filled(x_OI: Tensor) -> Tensor:
    """Zeros appended to whole blocks of rows and groups of columns."""
    return F.pad(x_OI, (0, -x_OI.shape[1] % GROUP, 0, -x_OI.shape[0] % ROWS))


def _bytes(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.uint8)


def _lanes(x_OG: Tensor, B: int) -> Tensor:
    """One number for each row and group, as bytes [B, G, 16 numbers]."""
    x_OG = F.pad(x_OG, (0, 0, 0, B * ROWS - x_OG.shape[0])) if x_OG.shape[0] < B * ROWS else x_OG
    lanes_BGx: Tensor = x_OG.unflatten(0, (B, ROWS)).transpose(1, 2)
    return _bytes(lanes_BGx)


def _scale_bytes(format: Format, parts: Parts, B: int, G: int) -> list[Tensor]:
    halves = 2 if format.scales.startswith("two_16") else 1
    given = [part for part in (parts.scales, parts.minima) if part is not None]
    return [_lanes(part, B).reshape(B, G, -1) if halves == 2 else _lanes(part, B) for part in given]


def _quant_bytes(bits: int, quants_OI: Tensor) -> Tensor:
    """[B, G, 64 · bits]."""
    blocks = quants_OI.unflatten(0, (-1, ROWS)).unflatten(2, (-1, 8, 4))
    steps: Tensor = blocks.permute(0, 2, 3, 1, 4).flatten(3)
    if bits == 8:
        return steps.flatten(2)
    low = (steps[:, :, 0::2] & 15) | ((steps[:, :, 1::2] & 15) << 4)
    high = steps >> 4
    if bits == 5:
        planes = [_united([high[:, :, s] << s for s in range(8)])]
    elif bits == 6:
        planes = [_united([high[:, :, 4 * v + j] << 2 * j for j in range(4)]) for v in range(2)]
    else:
        planes = []
    return torch.cat((low.flatten(2), *planes), -1)


def _united(planes: list[Tensor]) -> Tensor:
    all_bits = planes[0]
    for plane in planes[1:]:
        all_bits = all_bits | plane
    return all_bits


def _quants(bits: int, bytes_BGx: Tensor) -> Tensor:
    """[O, I] from [B, G, 64 · bits]."""
    if bits == 8:
        steps = bytes_BGx.unflatten(2, (8, 64))
    else:
        low = bytes_BGx[..., :256].unflatten(2, (4, 64))
        steps = torch.stack((low & 15, low >> 4), 3).flatten(2, 3)
        planes = bytes_BGx[..., 256:]
        if bits == 5:
            steps = steps | torch.stack([(planes >> s & 1) << 4 for s in range(8)], 2)
        elif bits == 6:
            halves = planes.unflatten(2, (2, 64))
            steps = steps | torch.stack([(halves[:, :, s // 4] >> s % 4 * 2 & 3) << 4 for s in range(8)], 2)
    # [B, G, step, row, column] back to rows of columns.
    quants_OI: Tensor = steps.unflatten(3, (ROWS, 4)).permute(0, 3, 1, 2, 4).flatten(2).flatten(0, 1)
    return quants_OI


def _interleave(groups_BGx: Tensor, heads_BSx: Tensor | None) -> Tensor:
    if heads_BSx is None:
        return groups_BGx.flatten()
    per, parts = SUPER // GROUP, []
    for s in range(heads_BSx.shape[1]):
        parts += [heads_BSx[:, s], groups_BGx[:, s * per : (s + 1) * per].flatten(1)]
    return torch.cat(parts, 1).flatten()


def _separate(data: Tensor, B: int, G: int, head: int, each: int) -> tuple[Tensor, Tensor]:
    per, S = SUPER // GROUP, -(-G * GROUP // SUPER)
    blocks_Bx = data.view(B, -1)
    starts = [head * (g // per + 1) + each * g for g in range(G)]
    groups_BGx = torch.stack([blocks_Bx[:, start : start + each] for start in starts], 1)
    heads = [blocks_Bx[:, s * (head + per * each) :][:, :head] for s in range(S)]
    return groups_BGx, torch.stack(heads, 1)


def _by_row_halves(bytes_BGx: Tensor) -> Tensor:
    """float16 [O, G] from [B, G, 32 bytes]."""
    return bytes_BGx.contiguous().view(torch.float16).transpose(1, 2).flatten(0, 1).contiguous()


def _by_row_bytes(bytes_BGx: Tensor) -> Tensor:
    """uint8 [O, G · halves] from [B, G, 16 · halves]."""
    split: Tensor = bytes_BGx.unflatten(2, (-1, ROWS)).flatten(1, 2)
    return split.transpose(1, 2).flatten(0, 1).contiguous()


def _decode(data: Tensor, format: Format, O: int, I: int) -> Tensor:
    if format.scales == "none":
        return _decode_plain(data, format, O)[:O, :I].float()
    if format.scales == "fp8":
        return _decode_fp8(data, O, I)[:O, :I]
    parts = disassemble(data, format, O, I)
    scales, minima = effective(format, parts)
    spread = parts.quants_OI.shape[1] // scales.shape[1]
    wide = [part.repeat_interleave(spread, 1) for part in (scales, minima)]
    return (wide[0] * parts.quants_OI - wide[1])[:O, :I]


def effective(format: Format, parts: Parts) -> tuple[Tensor, Tensor]:
    """Scale and minimum of each row and group (or half group) as float32; no product here is rounded but the last."""
    scales = parts.scales.float()
    if parts.d_OS is not None:
        scales = scales * _spread(parts.d_OS, scales.shape[1])
    if parts.minima is None:
        return scales, scales * format.offset
    minima = parts.minima.view(torch.float16 if parts.m_OS is None else torch.uint8).float()
    return scales, minima if parts.m_OS is None else minima * _spread(parts.m_OS, minima.shape[1])


def _spread(x_OS: Tensor, groups: int) -> Tensor:
    per = -(-groups // x_OS.shape[1]) if x_OS.shape[1] == 1 else None
    times = per or (SUPER // GROUP) * (2 if groups > x_OS.shape[1] * (SUPER // GROUP) else 1)
    return x_OS.float().repeat_interleave(times, 1)[:, :groups]


def _decode_plain(data: Tensor, format: Format, O: int) -> Tensor:
    kind, step = (torch.float32, 1) if format.bits == 32 else (torch.bfloat16, 2)
    blocks = data.view(kind).view(-(-O // ROWS), -1, ROWS, step)
    return blocks.transpose(1, 2).flatten(2).flatten(0, 1)


def _decode_fp8(data: Tensor, O: int, I: int) -> Tensor:
    codes_OI, scales_OS = _fp8_parts(data, O, I)
    return codes_OI.float() * scales_OS.repeat_interleave(FP8_SPAN, 1)[:, : codes_OI.shape[1]]


def _fp8_parts(data: Tensor, O: int, I: int) -> tuple[Tensor, Tensor]:
    """Codes and scales of one matrix's bytes, whole blocks and groups of them."""
    B, columns = -(-O // ROWS), -(-I // GROUP) * GROUP
    blocks_Bx, at, codes, scales = data.view(B, -1), 0, [], []
    for first in range(0, columns, FP8_SPAN):
        width = min(FP8_SPAN, columns - first)
        scales.append(blocks_Bx[:, at : at + 64].contiguous().view(torch.float32))
        bytes_Bx = blocks_Bx[:, at + 64 : at + 64 + ROWS * width]
        codes.append(bytes_Bx.unflatten(1, (width // 4, ROWS, 4)).transpose(1, 2).flatten(2))
        at += 64 + ROWS * width
    codes_OI = torch.cat(codes, -1).flatten(0, 1).view(torch.float8_e4m3fn)
    return codes_OI, torch.stack(scales, -1).flatten(0, 1)


def unpack_fp8(weight: Weight) -> tuple[Tensor, Tensor]:
    """The reverse of `pack_fp8`, codes as e4m3."""
    *stack, O, I = weight.shape
    parts = [_fp8_parts(data, O, I) for data in weight.data.reshape(-1, weight.data.shape[-1])]
    # Bytes, since PyTorch stacks no fp8 of some versions.
    codes = torch.stack([one.view(torch.uint8)[:O, :I] for one, _ in parts]).view(torch.float8_e4m3fn)
    scales = torch.stack([one[:O] for _, one in parts])
    return codes.view(*stack, O, I), scales.view(*stack, O, -1)


def _encode_f32(x_OI: Tensor) -> Tensor:
    return _bytes(x_OI.float().unflatten(0, (-1, ROWS)).transpose(1, 2).contiguous()).flatten()


def _encode_bf16(x_OI: Tensor) -> Tensor:
    pairs = x_OI.bfloat16().unflatten(0, (-1, ROWS)).unflatten(2, (-1, 2)).transpose(1, 2)
    return _bytes(pairs.contiguous()).flatten()


def _encode_fp8(x_OI: Tensor) -> Tensor:
    spans = [span.float() for span in x_OI.split(FP8_SPAN, 1)]
    scale_OS = torch.stack([span.abs().amax(1) / 448 for span in spans], 1)
    codes = [span / scale_OS[:, [s]].clamp(min=1e-30) for s, span in enumerate(spans)]
    return _fp8_bytes(torch.cat(codes, 1), scale_OS)


def _fp8_bytes(codes_OI: Tensor, scale_OS: Tensor) -> Tensor:
    """Of one filled matrix."""
    parts = []
    for span, scale_O in zip(codes_OI.split(FP8_SPAN, 1), scale_OS.unbind(1), strict=True):
        codes = span.to(torch.float8_e4m3fn).view(torch.uint8)
        fours = codes.unflatten(0, (-1, ROWS)).unflatten(2, (-1, 4)).transpose(1, 2)
        parts += [_bytes(scale_O.unflatten(0, (-1, ROWS))), fours.flatten(1)]
    return torch.cat(parts, 1).flatten()


def pack_fp8(codes: Tensor, scales: Tensor) -> Weight:
    """FP8 as it was stored: e4m3 numbers [..., O, I] in any float type, and what each row's 128 columns are multiplied
    with, float32 [..., O, S]. Nothing is rounded."""
    *stack, O, I = codes.shape
    pairs = zip(codes.reshape(-1, O, I), scales.reshape(-1, O, scales.shape[-1]), strict=True)
    data = torch.stack([_fp8_bytes(_filled(c), F.pad(s, (0, 0, 0, -O % ROWS))) for c, s in pairs])
    return Weight(FORMATS["fp8"], (*stack, O, I), data.view(*stack, -1) if stack else data[0])


def _encode_int8(x_OI: Tensor) -> Tensor:
    groups = x_OI.float().unflatten(1, (-1, GROUP))
    scale_OG = (groups.abs().amax(-1) / 127).half()
    quants = (groups * _inverse(scale_OG)[..., None]).round().clamp(-127, 127) + 128
    return assemble(FORMATS["int8"], Parts(quants.to(torch.uint8).flatten(1), scale_OG))


def _encode_int4(x_OI: Tensor) -> Tensor:
    return assemble(FORMATS["int4"], nearest_int4(x_OI))


def filled_groups(x_OI: Tensor) -> Tensor:
    """Columns in groups of 32 as float32, the last filled up with zeros, [O, G, 32]."""
    groups: Tensor = F.pad(x_OI.float(), (0, -x_OI.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    return groups


def nearest_int4(x_OI: Tensor) -> Parts:
    """Round to nearest: each group's range from its least number (or 0) to its largest in 15 steps."""
    groups = filled_groups(x_OI)
    low_OG = groups.amin(-1).clamp(max=0)
    scale_OG = (groups.amax(-1).clamp(min=0) - low_OG) / 15
    d_OS, scales, steps = two_level(scale_OG)
    m_OS, minima, offsets = two_level(0 - low_OG)
    quants = ((groups + offsets[..., None]) * _inverse(steps)[..., None]).round().clamp(0, 15)
    return Parts(quants.to(torch.uint8).flatten(1), scales, minima, d_OS, m_OS)


def two_level(x_OG: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers from 0 on as a float16 for each superblock and bytes for each group, and what these come to."""
    per = SUPER // GROUP
    padded = F.pad(x_OG, (0, -x_OG.shape[1] % per)).unflatten(1, (-1, per))
    unit_OS = _half_up(padded.amax(-1) / 255)  # so that 255 steps always reach the largest
    codes = (padded * _inverse(unit_OS)[..., None]).round().clamp(0, 255)
    real = (codes * unit_OS.float()[..., None]).flatten(1)[:, : x_OG.shape[1]]
    return unit_OS, codes.flatten(1)[:, : x_OG.shape[1]].to(torch.uint8), real


def _half_up(x: Tensor) -> Tensor:
    """The least float16 that is no less than a number from 0 on."""
    half = x.half()
    up: Tensor = (half.view(torch.int16) + (half.float() < x)).view(torch.float16)
    return up


def _inverse(x: Tensor) -> Tensor:
    return torch.where(x == 0, 0.0, 1 / x.float())


_HALF_MOST = 65504.0
_MOST = {"fp8": torch.finfo(torch.float32).max, "int8": 127 * _HALF_MOST, "int4": 128 * _HALF_MOST}
"""What the scale of a group still reaches."""

_ENCODERS: dict[str, Callable[[Tensor], Tensor]] = {
    "f32": _encode_f32,
    "bf16": _encode_bf16,
    "fp8": _encode_fp8,
    "int8": _encode_int8,
    "int4": _encode_int4,
}
