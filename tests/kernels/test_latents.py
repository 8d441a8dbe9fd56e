"""Rows of the cache: what is read back, and that the kernels write the same bytes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from coderv2.kernels import latents, native_attention, reference
from tests.kernels.packed import random

widths = st.integers(1, 70)


def _read(pages_PSX: Tensor, slots: list[int], width: int) -> Tensor:
    return native_attention.cache_read(pages_PSX, torch.tensor(slots), width, torch.float32)


def _pages(width: int, dtype: torch.dtype) -> Tensor:
    return torch.zeros(3, 4, latents.stored_width(width, dtype), dtype=dtype)


@given(widths, st.integers(-30, 30), st.data())
def test_int8_rows_are_read_back_to_half_a_step(width: int, power: int, data: st.DataObject) -> None:
    numbers = data.draw(arrays("float32", (3, width), elements=st.floats(-1, 1, width=32)))
    x_TC = torch.from_numpy(numbers) * 2.0**power
    back_TC = latents.widened(latents.stored(x_TC, torch.int8), width, torch.float32)
    step_T1 = x_TC.abs().amax(-1, keepdim=True) / 127
    assert ((back_TC - x_TC).abs() <= step_T1 * 0.5001 + 1e-30).all()


@pytest.mark.parametrize("dtype", latents.KINDS)
@pytest.mark.parametrize("width", [1, 6, 20, 64, 512])
def test_the_kernels_write_and_read_what_reference_does(isa: str, dtype: torch.dtype, width: int) -> None:
    rows_TC, slots = random(5, width + 3)[:, :width], [11, 0, 7, 3, 4]
    rows_TC[2] = 0
    rows_TC[3] *= 1e-20
    ours, theirs = _pages(width, dtype), _pages(width, dtype)
    native_attention.cache_write(ours, ours.clone(), torch.tensor(slots), rows_TC, rows_TC)
    reference.cache_write(theirs, theirs.clone(), torch.tensor(slots), rows_TC, rows_TC)
    assert torch.equal(ours, theirs)
    expected = reference.cache_read(theirs, torch.tensor(slots[::-1]), width, torch.float32)
    assert torch.equal(_read(ours, slots[::-1], width), expected)


@pytest.mark.parametrize("dtype", latents.KINDS)
def test_a_page_that_nobody_wrote_reads_as_zeros(isa: str, dtype: torch.dtype) -> None:
    assert not _read(_pages(20, dtype), [0, 11], 20).any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_row_with_what_is_not_finite_does_not_look_finite(isa: str, bad: float) -> None:
    rows_TC = random(2, 12)
    rows_TC[1, 5] = bad
    pages = _pages(12, torch.int8)
    native_attention.cache_write(pages, pages.clone(), torch.tensor([1, 2]), rows_TC, rows_TC)
    read_SC = _read(pages, [1, 2], 12)
    assert read_SC[0].isfinite().all()
    assert not read_SC[1].isfinite().any()
    assert not latents.widened(latents.stored(rows_TC, torch.int8), 12, torch.float32)[1].isfinite().any()
