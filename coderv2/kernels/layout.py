"""Parts of a matrix into the bytes of kernel order and back, in plain PyTorch: the definition of what `formats` draws.

`cpu/layout.h` and `cpu/pack.cpp` write the same bytes, `cpu/multiply.h` reads them.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from coderv2.kernels.formats import GROUP, ROWS, SUPER, Format

FP8_SPAN = 128
"""Columns of an fp8 row that share a scale."""


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


def numbers(format: Format, parts: Parts) -> Tensor:
    """What a matrix's parts stand for, float32 [O, I]."""
    width = GROUP // 2 if format.scales.startswith("two_16") else GROUP
    scale_OI, minimum_OI = (
        each.repeat_interleave(width, 1)[:, : parts.quants_OI.shape[1]] for each in effective(format, parts)
    )
    return scale_OI * parts.quants_OI - minimum_OI


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


def assemble(format: Format, parts: Parts) -> Tensor:
    """The bytes of one matrix; O and I need not be whole blocks and groups."""
    quants_OI = filled(parts.quants_OI)
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


def filled(x_OI: Tensor) -> Tensor:
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


def plain_numbers(data: Tensor, format: Format, O: int) -> Tensor:
    """What the bytes of one matrix without scales hold, in its type, whole blocks."""
    kind, step = (torch.float32, 1) if format.bits == 32 else (torch.bfloat16, 2)
    blocks = data.view(kind).view(-(-O // ROWS), -1, ROWS, step)
    return blocks.transpose(1, 2).flatten(2).flatten(0, 1)


def f32_bytes(x_OI: Tensor) -> Tensor:
    """Of one filled matrix."""
    return _bytes(x_OI.float().unflatten(0, (-1, ROWS)).transpose(1, 2).contiguous()).flatten()


def bf16_bytes(x_OI: Tensor) -> Tensor:
    """The same in bfloat16."""
    pairs = x_OI.bfloat16().unflatten(0, (-1, ROWS)).unflatten(2, (-1, 2)).transpose(1, 2)
    return _bytes(pairs.contiguous()).flatten()


def fp8_bytes(codes_OI: Tensor, scale_OS: Tensor) -> Tensor:
    """Of one filled matrix: numbers that e4m3 holds, and the scale of each row and span."""
    parts = []
    for span, scale_O in zip(codes_OI.split(FP8_SPAN, 1), scale_OS.unbind(1), strict=True):
        codes = span.to(torch.float8_e4m3fn).view(torch.uint8)
        fours = codes.unflatten(0, (-1, ROWS)).unflatten(2, (-1, 4)).transpose(1, 2)
        parts += [_bytes(scale_O.unflatten(0, (-1, ROWS))), fours.flatten(1)]
    return torch.cat(parts, 1).flatten()


def fp8_parts(data: Tensor, O: int, I: int) -> tuple[Tensor, Tensor]:
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
