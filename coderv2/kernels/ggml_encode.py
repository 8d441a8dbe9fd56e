"""Rounding to the number types of GGUF files: scales found by weighted least squares over several tries of each block.

A quantised weight is scale · quant (symmetric types) or scale · quant - minimum. For each group of columns several
scales around the obvious one are tried; the quants of each fix the best scale (and minimum) by least squares; the try
with the least weighted error stays. Large weights count more, since they meet the activations with more effect.
`cpu/encode.cpp` does the same bit for bit, fifteen times as fast; without the kernels this is what runs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from coderv2.errors import Unsupported
from coderv2.kernels import ggml
from coderv2.kernels.cpu import kernels

_CHUNK = 1 << 18  # numbers at a time: the tries' intermediate results stay in the processor's caches
_TRIES = 9


def encode(name: str, x: Tensor) -> Tensor:
    """Rows [..., I] as the bytes [..., n] of the type `name`; I is a multiple of its block's columns.

    Raises Unsupported for a type that nothing is rounded to, for numbers beyond what it holds, and for NaN.
    """
    number, kind = next((number, kind) for number, kind in ggml.TYPES.items() if kind.name == name)
    if name not in _ENCODERS:
        raise Unsupported(f"nothing is rounded to {name}; one of {', '.join(_ENCODERS)}")
    # Rounding would make some number of NaN: no scale shows afterwards that it was there.
    if x.numel() and any(bool(bound.isnan()) for bound in torch.aminmax(x)):
        raise Unsupported(f"the weights hold NaN, which {name} has no quant for")
    natively = kernels is not None and kind.columns > 1
    data = _natively(number, kind, x) if natively else encode_plainly(name, x)
    if not ggml.is_finite(number, data.flatten()):
        raise Unsupported(f"the weights are too large for {name}")
    return data


def encode_plainly(name: str, x: Tensor) -> Tensor:
    """`encode` in PyTorch, which defines it; numbers too large become infinite."""
    columns = next(kind.columns for kind in ggml.TYPES.values() if kind.name == name)
    step = max(1, _CHUNK // columns)
    if columns == 1:
        return _ENCODERS[name](x)
    parts = [_ENCODERS[name](part.float()) for part in x.reshape(-1, columns).split(step)]
    return torch.cat(parts).view(*x.shape[:-1], -1)


def _natively(number: int, kind: ggml.GgmlType, x: Tensor) -> Tensor:
    source = (x if x.dtype == torch.bfloat16 else x.float()).contiguous()
    data = torch.empty(*x.shape[:-1], x.shape[-1] // kind.columns * kind.bytes, dtype=torch.uint8)
    kernels.encode_ggml(
        number, source.dtype == torch.bfloat16, source.data_ptr(), source.numel(), data.data_ptr()
    )
    return data


def _raw(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.uint8)


def _plain(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda x_Nx: _raw(x_Nx.to(dtype))


def _q8_0(x_Nx: Tensor) -> Tensor:
    d_N1 = (x_Nx.abs().amax(1, True) / 127).half()
    quants = (x_Nx * _inverse(d_N1.float())).round().clamp(-127, 127).to(torch.int8)
    return torch.cat((_raw(d_N1), _raw(quants)), 1)


def _q5_0(x_Nx: Tensor) -> Tensor:
    d_N1 = _symmetric(x_Nx, 16).half()[:, None]
    quants = ((x_Nx * _inverse(d_N1.float())).round() + 16).clamp(0, 31).to(torch.uint8)
    return torch.cat((_raw(d_N1), *_five_bits(quants)), 1)


def _q5_1(x_Nx: Tensor) -> Tensor:
    scale_N1, minimum_N1 = (part.half()[:, None] for part in _with_minimum(x_Nx, 31, signed=True))
    quants = ((x_Nx + minimum_N1.float()) * _inverse(scale_N1.float())).round().clamp(0, 31).to(torch.uint8)
    return torch.cat((_raw(scale_N1), _raw(-minimum_N1), *_five_bits(quants)), 1)


def _five_bits(quants_Nx: Tensor) -> tuple[Tensor, Tensor]:
    """32 fifth bits in 4 bytes, then nibbles: the first 16 columns low, the others high."""
    bits = (quants_Nx >> 4).view(-1, 4, 8) << torch.arange(8, dtype=torch.uint8)
    low = quants_Nx & 15
    return bits.sum(2, dtype=torch.uint8), low[:, :16] | low[:, 16:] << 4


def _q4_k(x_Nx: Tensor) -> Tensor:
    head, quants_N4x = _two_level(x_Nx, 15)
    return torch.cat((head, (quants_N4x[:, :, :32] | quants_N4x[:, :, 32:] << 4).flatten(1)), 1)


def _q5_k(x_Nx: Tensor) -> Tensor:
    head, quants_N4x = _two_level(x_Nx, 31)
    places = torch.arange(8, dtype=torch.uint8)[:, None]
    high = ((quants_N4x >> 4).view(-1, 8, 32) << places).sum(1, dtype=torch.uint8)
    low = quants_N4x & 15
    return torch.cat((head, high, (low[:, :, :32] | low[:, :, 32:] << 4).flatten(1)), 1)


def _two_level(x_Nx: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """d, m and eight six-bit scales and minima as bytes [N, 16], and quants [N, 4, 64]."""
    groups_N8x = x_Nx.view(-1, 8, 32)
    scales_N8, minima_N8 = _with_minimum(groups_N8x, most, signed=False)
    d_N1, scale_codes = _six_bits(scales_N8)
    m_N1, minimum_codes = _six_bits(minima_N8)
    scales, minima = d_N1.float() * scale_codes, m_N1.float() * minimum_codes
    quants = ((groups_N8x + minima[..., None]) * _inverse(scales)[..., None]).round().clamp(0, most)
    head = torch.cat((_raw(d_N1), _raw(m_N1), _interwoven(scale_codes, minimum_codes)), 1)
    return head, quants.to(torch.uint8).view(-1, 4, 64)


def _six_bits(x_N8: Tensor) -> tuple[Tensor, Tensor]:
    """A float16 for all eight and six bits for each."""
    unit_N1 = (x_N8.amax(1, True) / 63).half()
    return unit_N1, (x_N8 * _inverse(unit_N1.float())).round().clamp(0, 63).to(torch.uint8)


def _interwoven(scales_N8: Tensor, minima_N8: Tensor) -> Tensor:
    """Twelve bytes: the upper two bits of the last four of each stand above the first four."""
    first = [codes[:, :4] | codes[:, 4:] >> 4 << 6 for codes in (scales_N8, minima_N8)]
    return torch.cat((*first, (scales_N8[:, 4:] & 15) | (minima_N8[:, 4:] & 15) << 4), 1)


def _q6_k(x_Nx: Tensor) -> Tensor:
    groups_Ngx = x_Nx.view(-1, 16, 16)
    scales_N16 = _symmetric(groups_Ngx, 32)
    largest_N1 = scales_N16.gather(1, scales_N16.abs().argmax(1, True))
    d_N1 = (largest_N1 / -128).half()
    codes_N16 = (scales_N16 * _inverse(d_N1.float())).round().clamp(-128, 127).to(torch.int8)
    inverse = _inverse(d_N1.float() * codes_N16)
    quants = ((groups_Ngx * inverse[..., None]).round() + 32).clamp(0, 63).to(torch.uint8).view(-1, 2, 4, 32)
    low, high = quants & 15, quants >> 4
    nibbles = low[:, :, :2] | low[:, :, 2:] << 4
    pairs = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    return torch.cat((nibbles.flatten(1), pairs.flatten(1), _raw(codes_N16), _raw(d_N1)), 1)


@dataclass
class _Best:
    """Of each group: the least error so far, and what made it."""

    error_G: Tensor
    values: tuple[Tensor, ...]

    def improve(self, error_G: Tensor, *values: Tensor) -> None:
        """Takes over where the error is less; NaN never is."""
        better = error_G < self.error_G
        self.error_G = torch.where(better, error_G, self.error_G)
        pairs = zip(values, self.values, strict=True)
        self.values = tuple(torch.where(better, new, old) for new, old in pairs)


def _columns_first(groups: Tensor) -> Tensor:
    """[..., x] as [x, G]: sums over a group's columns then run along whole vectors."""
    return groups.reshape(-1, groups.shape[-1]).T.contiguous()


def _sum(x_xG: Tensor) -> Tensor:
    """Over a group's columns in a fixed order: four sums of every fourth, then those."""
    total_4G = torch.zeros_like(x_xG[:4])
    for part_4G in x_xG.split(4):
        total_4G += part_4G
    total_2G = total_4G[0::2] + total_4G[1::2]
    total_G: Tensor = total_2G[0] + total_2G[1]
    return total_G


def _symmetric(groups: Tensor, half: int) -> Tensor:
    """The scale [...] of each group [..., x] for quants from -half to half - 1.

    The largest number is put at -half, which is one step further out than the largest positive quant.
    """
    x_xG = _columns_first(groups)
    largest_G = x_xG.gather(0, x_xG.abs().argmax(0, True))[0]
    weight_xG = x_xG * x_xG
    best = _Best(torch.full_like(largest_G, torch.inf), (largest_G / -half,))
    for step in range(_TRIES):
        per_G = _inverse(largest_G) * -(half + 0.2 * (step - _TRIES // 2))
        quants_xG = (x_xG * per_G).round_().clamp_(-half, half - 1)
        weighted_xG = weight_xG * quants_xG
        scale_G = _sum(weighted_xG * x_xG) * _inverse(_sum(weighted_xG * quants_xG))
        best.improve(_error(weight_xG, quants_xG.mul_(scale_G), x_xG), scale_G)
    return best.values[0].view(groups.shape[:-1])


def _with_minimum(groups: Tensor, most: int, *, signed: bool) -> tuple[Tensor, Tensor]:
    """Scale and minimum [...] of each group [..., x] for quants from 0 to `most`; unsigned minima are at least 0."""
    x_xG = _columns_first(groups)
    low_G, high_G = x_xG.amin(0), x_xG.amax(0)
    if not signed:
        low_G = low_G.clamp(max=0)
    weight_xG = x_xG.abs() + _root(_sum(x_xG.square()) / len(x_xG))
    best = _Best(torch.full_like(low_G, torch.inf), ((high_G - low_G) / most, -low_G))
    for step in range(_TRIES):
        per_G = _inverse(high_G - low_G) * (most + 0.2 * (step - _TRIES // 2))
        quants_xG = (x_xG - low_G).mul_(per_G).round_().clamp_(0, most)
        scale_G, offset_G = _line(weight_xG, quants_xG, x_xG, through_zero=not signed)
        error_G = _error(weight_xG, quants_xG.mul_(scale_G).add_(offset_G), x_xG)
        best.improve(torch.where(scale_G > 0, error_G, torch.inf), scale_G, -offset_G)
    scale, minimum = (value.view(groups.shape[:-1]) for value in best.values)
    return scale, minimum


def _error(weight_xG: Tensor, rounded_xG: Tensor, x_xG: Tensor) -> Tensor:
    return _sum(rounded_xG.sub_(x_xG).square_().mul_(weight_xG))


def _line(weight_xG: Tensor, quants_xG: Tensor, x_xG: Tensor, *, through_zero: bool) -> tuple[Tensor, Tensor]:
    """Slope and offset of the weighted least-squares line through the points (quant, x) of each group.

    With `through_zero` an offset that would be above 0 is 0.
    """
    weighted_xG = weight_xG * quants_xG
    w, wq, wqq = _sum(weight_xG), _sum(weighted_xG), _sum(weighted_xG * quants_xG)
    wx, wqx = _sum(weight_xG * x_xG), _sum(weighted_xG * x_xG)
    inverse = _inverse(w * wqq - wq * wq)
    slope, offset = (w * wqx - wq * wx) * inverse, (wqq * wx - wq * wqx) * inverse
    if through_zero:
        slope, offset = torch.where(offset > 0, wqx * _inverse(wqq), slope), offset.clamp(max=0)
    return slope, offset


def _root(x: Tensor) -> Tensor:
    """By NumPy, since the last bit of PyTorch's is not always right."""
    return torch.from_numpy(np.sqrt(x.numpy()))


def _inverse(x: Tensor) -> Tensor:
    return torch.where(x == 0, 0.0, 1 / x)


_ENCODERS: dict[str, Callable[[Tensor], Tensor]] = {
    "F32": _plain(torch.float32),
    "F16": _plain(torch.float16),
    "BF16": _plain(torch.bfloat16),
    "Q8_0": _q8_0,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
