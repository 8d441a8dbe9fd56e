"""int4 that minds what a layer does with its weights, and not only the weights: range search and error feedback.

What is made small is the error of the layer's output over its inputs x, tr(E·H·Eᵀ) with H = E[x·xᵀ]:

1. Each group's scale and minimum are searched for, errors weighted with the diagonal of H (a column that is always zero
   counts for nothing).
2. Columns are rounded one after the other, the most active first, and the error of each is made up for by those that
   are still to be rounded (GPTQ, Frantar et al. 2022; equation 2 there).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from coderv2.kernels.formats import FORMATS, GROUP
from coderv2.kernels.layout import Parts, numbers
from coderv2.kernels.rounding import filled_groups, nearest_int4, two_level

LEVELS = 15
_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
_STRIDE = 64
"""Columns that pass their errors on among themselves before the rest gets them, in one product."""


@dataclass(frozen=True)
class Curvature:
    """What rounding needs to know of the inputs of a matrix [O, I]."""

    hessian_II: Tensor
    importance_I: Tensor
    order_I: Tensor
    """Columns, the most active first."""
    feedback_II: Tensor
    """Upper factor of the inverse, in that order."""

    @classmethod
    def of(cls, hessian_II: Tensor, damp: float = 0.01) -> "Curvature":
        """`damp` is the share of the mean of the diagonal that is added to it: a column never seen stays in bounds."""
        importance_I = hessian_II.diagonal()
        floor = damp * float(importance_I.mean()) or 1.0
        damped_II = hessian_II + floor * torch.eye(len(hessian_II))
        order_I = importance_I.argsort(descending=True)
        lower_II = torch.linalg.cholesky(damped_II[order_I][:, order_I])
        feedback_II = torch.linalg.cholesky(torch.cholesky_inverse(lower_II), upper=True)
        return cls(damped_II, damped_II.diagonal().clone(), order_I, feedback_II)

    def error(self, difference_OI: Tensor) -> Tensor:
        """Mean square of each output's error, [O]."""
        return ((difference_OI @ self.hessian_II) * difference_OI).sum(1)


def calibrated_int4(w_OI: Tensor, curvature: Curvature) -> Parts:
    """The parts of an int4 matrix; a row that rounding to nearest serves better keeps that."""
    w_OI = w_OI.float()
    scale_OG, minimum_OG = search_ranges(w_OI, curvature.importance_I)
    d_OS, scales, steps_OG = two_level(scale_OG)
    m_OS, minima, offsets_OG = two_level(minimum_OG)
    quants_OI, error_O = _with_feedback(w_OI, steps_OG, offsets_OG, curvature)
    nearest = nearest_int4(w_OI)
    nearest_error_O = curvature.error(numbers(FORMATS["int4"], nearest)[:, : w_OI.shape[1]] - w_OI)
    return _rows_of(
        nearest, Parts(quants_OI, scales, minima, d_OS, m_OS), (error_O > nearest_error_O)[:, None]
    )


def _rows_of(nearest: Parts, ours: Parts, worse_O1: Tensor) -> Parts:
    """`ours`, but for the rows where it is worse."""

    def pick(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        return None if a is None or b is None else torch.where(worse_O1, b, a)

    return Parts(
        torch.where(worse_O1, nearest.quants_OI[:, : ours.quants_OI.shape[1]], ours.quants_OI),
        torch.where(worse_O1, nearest.scales, ours.scales),
        pick(ours.minima, nearest.minima),
        pick(ours.d_OS, nearest.d_OS),
        pick(ours.m_OS, nearest.m_OS),
    )


def search_ranges(w_OI: Tensor, importance_I: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and minimum of each group [O, G]: the best of some shrunken ranges and their weighted refits."""
    x_OGx = filled_groups(w_OI)
    c_Gx = filled_groups(importance_I[None])[0]
    low_OG, high_OG = x_OGx.amin(-1).clamp(max=0), x_OGx.amax(-1).clamp(min=0)
    best_OG = torch.full_like(low_OG, float("inf"))
    found = [torch.zeros_like(low_OG), torch.zeros_like(low_OG)]
    for shrink in _SHRINKS:
        fitted = (high_OG - low_OG) * shrink / LEVELS, -low_OG * shrink
        for _ in range(2):  # as given, then refitted to the quants that it gives
            error_OG, refitted = _tried(x_OGx, c_Gx, *fitted)
            better = error_OG < best_OG
            best_OG = torch.where(better, error_OG, best_OG)
            found = [torch.where(better, new, old) for new, old in zip(fitted, found, strict=True)]
            fitted = refitted
    return found[0], found[1]


def _tried(
    x_OGx: Tensor, c_Gx: Tensor, scale_OG: Tensor, minimum_OG: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The weighted error of a range, and the range that fits its quants best."""
    by_OG = torch.where(scale_OG > 0, 1 / scale_OG, 0.0)
    q = ((x_OGx + minimum_OG[..., None]) * by_OG[..., None]).round_().clamp_(0, LEVELS)
    error_OG = ((q * scale_OG[..., None] - minimum_OG[..., None] - x_OGx).square_() * c_Gx).sum(-1)
    cq = q * c_Gx
    n, sq, sx = c_Gx.sum(-1), cq.sum(-1), (x_OGx * c_Gx).sum(-1)
    sqq, sxq = (cq * q).sum(-1), (cq * x_OGx).sum(-1)
    spread = n * sqq - sq * sq
    scale = torch.where(spread > 0, (n * sxq - sq * sx) / spread, scale_OG)
    minimum = torch.where(n > 0, (scale * sq - sx) / n, minimum_OG)
    # Minima are never negative: where the best were, the scale alone fits.
    alone = torch.where(sqq > 0, sxq / sqq, scale_OG)
    scale = torch.where(minimum < 0, alone, scale).clamp(min=0)
    return error_OG, (scale, minimum.clamp(min=0))


def _with_feedback(
    w_OI: Tensor, steps_OG: Tensor, offsets_OG: Tensor, curvature: Curvature
) -> tuple[Tensor, Tensor]:
    """Quants [O, I], and what `Curvature.error` finds of them, [O]: the squares of what is passed on, added up."""
    order_I, feedback_II = curvature.order_I, curvature.feedback_II
    group_I = order_I // GROUP
    left_IO = w_OI.T[order_I].contiguous()
    steps_IO, offsets_IO = steps_OG.T[group_I].contiguous(), offsets_OG.T[group_I].contiguous()
    by_IO = torch.where(steps_IO > 0, 1 / steps_IO, 0.0)
    quants_IO = torch.empty(left_IO.shape, dtype=torch.uint8)
    error_O = torch.zeros(left_IO.shape[1])
    for first in range(0, len(order_I), _STRIDE):
        last = min(first + _STRIDE, len(order_I))
        errors = torch.empty(last - first, left_IO.shape[1])
        for i in range(first, last):
            q_O = ((left_IO[i] + offsets_IO[i]) * by_IO[i]).round_().clamp_(0, LEVELS)
            quants_IO[i] = q_O
            errors[i - first] = (left_IO[i] - (q_O * steps_IO[i] - offsets_IO[i])) / feedback_II[i, i]
            left_IO[i + 1 : last].addr_(feedback_II[i, i + 1 : last], errors[i - first], alpha=-1)
        left_IO[last:].addmm_(feedback_II[first:last, last:].T, errors, alpha=-1)
        error_O += errors.square().sum(0)
    back_IO = torch.empty_like(quants_IO)
    back_IO[order_I] = quants_IO
    return back_IO.T.contiguous(), error_O
