"""Numbers rounded to what quantised formats hold, group by group; bit for bit what `cpu/round.cpp` does."""

import torch
import torch.nn.functional as F
from torch import Tensor

from coderv2.kernels.formats import GROUP, SUPER
from coderv2.kernels.layout import FP8_SPAN, Parts

_E4M3_MOST = torch.finfo(torch.float8_e4m3fn).max


def filled_groups(x_OI: Tensor) -> Tensor:
    """Columns in groups of 32 as float32, the last filled up with zeros, [O, G, 32]."""
    groups: Tensor = F.pad(x_OI.float(), (0, -x_OI.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    return groups


def nearest_fp8(x_OI: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's spans of 128 columns divided so that e4m3's largest number is reached, and what by, [O, S]."""
    spans = [span.float() for span in x_OI.split(FP8_SPAN, 1)]
    scale_OS = torch.stack([span.abs().amax(1) / _E4M3_MOST for span in spans], 1)
    codes = [span / scale_OS[:, [s]].clamp(min=1e-30) for s, span in enumerate(spans)]
    return torch.cat(codes, 1), scale_OS


def nearest_int8(x_OI: Tensor) -> Parts:
    """Each group's largest number becomes 127 steps; columns are whole groups."""
    groups = filled_groups(x_OI)
    scale_OG = (groups.abs().amax(-1) / 127).half()
    quants = (groups * _inverse(scale_OG)[..., None]).round().clamp(-127, 127) + 128
    return Parts(quants.to(torch.uint8).flatten(1), scale_OG)


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
