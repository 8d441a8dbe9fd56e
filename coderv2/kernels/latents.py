"""How a row of the latent cache stores its numbers: as a number format does, or as int8 with one scale.

An int8 row holds its numbers, filled up with zeros to fours, then what a step is worth (float32) and the numbers' sum
(int32), which the kernels would otherwise add up anew for every query.
"""

import torch
from torch import Tensor

KINDS = (torch.float32, torch.bfloat16, torch.int8, torch.float8_e4m3fn, torch.float8_e5m2)
"""As the CPU kernels number them."""
_MOST = 127
_TRAILER = 8


def stored_width(width: int, dtype: torch.dtype) -> int:
    """Numbers of `dtype` that a row of `width` takes."""
    return _whole_fours(width) + _TRAILER if dtype == torch.int8 else width


def stored(x_TC: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows as the cache keeps them.

    An int8 row with a number that is not finite reads as NaN throughout; what exceeds an fp8 cache's largest number
    becomes that number.
    """
    if dtype != torch.int8:
        most = torch.finfo(dtype).max
        return (x_TC.float().clamp(-most, most) if dtype.itemsize == 1 else x_TC).to(dtype)
    x_TC = x_TC.float()
    most_T1 = x_TC.abs().amax(-1, keepdim=True) + (x_TC * 0).sum(-1, keepdim=True)
    step_T1 = torch.where(most_T1 > 1e-30, most_T1 / _MOST, most_T1 * 0)
    inverse_T1 = torch.where(most_T1 > 1e-30, _MOST / most_T1, 0)
    numbers_TC = (x_TC * inverse_T1).nan_to_num().round().clamp(-_MOST, _MOST).to(torch.int8)
    numbers_TC = torch.nn.functional.pad(numbers_TC, (0, -numbers_TC.shape[-1] % 4))
    sum_T1 = numbers_TC.sum(-1, keepdim=True, dtype=torch.int32)
    return torch.cat((numbers_TC, step_T1.contiguous().view(torch.int8), sum_T1.view(torch.int8)), -1)


def widened(rows: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """The numbers of stored rows, [..., width] in `dtype`."""
    if rows.dtype != torch.int8:
        return rows.to(dtype)
    at = _whole_fours(width)
    step = rows[..., at : at + 4].contiguous().view(torch.float32)
    return (rows[..., :width] * step).to(dtype)


def _whole_fours(width: int) -> int:
    return -(-width // 4) * 4
