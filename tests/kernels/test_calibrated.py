"""Calibrated int4: less error in what comes out than rounding to nearest, and never more in any row."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from coderv2.kernels.calibrated import Curvature, calibrated_int4, search_ranges
from coderv2.kernels.formats import FORMATS, Weight
from coderv2.kernels.layout import assemble, numbers
from coderv2.kernels.packing import unpack
from coderv2.kernels.rounding import nearest_int4

INT4 = FORMATS["int4"]


def _inputs(rows: int, width: int, seed: int) -> Tensor:
    """Correlated, some columns much louder than others."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(rows, width, generator=generator) @ torch.randn(width, width, generator=generator)
    return mixed / width**0.5 * torch.rand(width, generator=generator).pow(3)


@pytest.mark.parametrize("width", [32, 100, 256, 320])
def test_outputs_are_nearer_than_with_rounding_to_nearest(width: int) -> None:
    w_OI = torch.randn(48, width, generator=torch.Generator().manual_seed(1)) * 0.02
    x_TI, fresh_TI = _inputs(2500, width, 2).split([2000, 500])
    curvature = Curvature.of(x_TI.T @ x_TI / len(x_TI))
    off = [
        fresh_TI @ (numbers(INT4, parts)[:, :width] - w_OI).T
        for parts in (calibrated_int4(w_OI, curvature), nearest_int4(w_OI))
    ]
    assert off[0].norm() < 0.75 * off[1].norm()


@given(st.integers(1, 20), st.sampled_from([31, 64, 288]), st.integers(1, 40), st.integers(0, 1 << 30))
@settings(max_examples=20, deadline=None)
def test_no_row_is_worse_on_what_was_seen_however_little_that_was(
    O: int, I: int, seen: int, seed: int
) -> None:
    w_OI = torch.randn(O, I, generator=torch.Generator().manual_seed(seed)) * 0.02
    x_TI = _inputs(seen, I, seed)
    curvature = Curvature.of(x_TI.T @ x_TI / seen)
    ours, nearest = (
        curvature.error(numbers(INT4, parts)[:, :I] - w_OI)
        for parts in (calibrated_int4(w_OI, curvature), nearest_int4(w_OI))
    )
    assert bool((ours <= nearest * (1 + 1e-4) + 1e-12).all())


def test_inputs_that_are_always_zero_leave_rounding_to_nearest() -> None:
    w_OI = torch.randn(5, 64)
    parts = calibrated_int4(w_OI, Curvature.of(torch.zeros(64, 64)))
    back = unpack(Weight(INT4, (5, 64), assemble(INT4, parts)))
    assert (back - w_OI).norm() < 1.01 * (numbers(INT4, nearest_int4(w_OI)) - w_OI).norm()


def test_the_search_weighs_columns_by_their_importance() -> None:
    x_OI = torch.linspace(0.0, 0.1, 32)[None].clone()
    x_OI[0, 0] = 0.13
    heard = torch.ones(32)
    heard[0] = 1e-6
    scale, minimum = search_ranges(x_OI, heard)
    deaf_scale, _ = search_ranges(x_OI, torch.ones(32))
    assert float(scale) < float(deaf_scale)
    assert float(minimum) >= 0
