"""Likeliest and drawn tokens, as `drawing` defines them, in C++ where our kernels can read the scores."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from coderv2.kernels import drawing
from coderv2.kernels.cpu import kernels
from coderv2.kernels.drawing import Rule


def _takes(*scores: Tensor) -> bool:
    """True for rows that lie as the kernels read them."""
    if kernels is None:
        return False
    return all(s.device.type == "cpu" and s.dtype == torch.float32 and s.stride(-1) == 1 for s in scores)


def peaks(scores_NW: Tensor) -> tuple[list[int], list[bool]]:
    """Of each row of float32 scores the likeliest token, of equals the first, and whether all are finite."""
    if not _takes(scores_NW):
        ids_N, finite_N = drawing.peaks(scores_NW)
        return ids_N.tolist(), finite_N.tolist()
    N, W = scores_NW.shape
    ids, finite = np.empty(N, np.int64), np.empty(N, np.bool_)
    kernels.peaks(scores_NW.data_ptr(), N, W, scores_NW.stride(0), ids.ctypes.data, finite.ctypes.data)
    return ids.tolist(), finite.tolist()


def draw(rows: Sequence[Tensor], rules: Sequence[Rule]) -> list[int]:
    """A token of each row [W] of float32 scores, wherever it lies; the likeliest where its score is not finite."""
    if not rows or not _takes(*rows):
        return drawing.draw(torch.stack(list(rows)), rules).tolist() if rows else []
    table, ids = np.array(rules, np.float64), np.empty(len(rows), np.int64)
    kernels.draw([row.data_ptr() for row in rows], rows[0].shape[0], table.ctypes.data, ids.ctypes.data)
    drawn: list[int] = ids.tolist()
    return drawn
