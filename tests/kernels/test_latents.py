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
float8 = pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=["e4m3", "e5m2"])


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


def _codes(dtype: torch.dtype) -> Tensor:
    """Every number of a float8 format, its NaN included, the infinite ones not: a cache holds none."""
    codes_N = torch.arange(256).to(torch.uint8)
    return codes_N[~codes_N.view(dtype).float().isinf()].view(dtype)


def _written(x_C: Tensor, dtype: torch.dtype) -> Tensor:
    pages = _pages(len(x_C), dtype)
    native_attention.cache_write(pages, pages.clone(), torch.tensor([5]), x_C[None], x_C[None])
    return pages.flatten(0, 1)[5]


@float8
def test_every_float8_number_is_read_as_itself_and_written_back(isa: str, dtype: torch.dtype) -> None:
    codes_C = _codes(dtype)
    pages = _pages(len(codes_C), dtype)
    pages.view(torch.uint8)[2, 1] = codes_C.view(torch.uint8)
    read_C = _read(pages, [9], len(codes_C))[0]
    torch.testing.assert_close(read_C, codes_C.float(), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(_written(read_C, dtype).float().nan_to_num(7), read_C.nan_to_num(7))


@float8
def test_what_lies_between_two_float8_numbers_goes_where_pytorch_puts_it(
    isa: str, dtype: torch.dtype
) -> None:
    numbers_N = _codes(dtype).float().nan_to_num(0).unique()
    half_N = (numbers_N[1:] + numbers_N[:-1]) / 2
    beyond_N = torch.tensor([1e9, -1e9, 460.0, 6e4, float("inf"), float("-inf"), 1e-30, -1e-45])
    x_C = torch.cat((half_N, half_N.nextafter(numbers_N[1:]), half_N.nextafter(numbers_N[:-1]), beyond_N))
    assert torch.equal(_written(x_C, dtype).view(torch.uint8), latents.stored(x_C, dtype).view(torch.uint8))


@float8
def test_an_fp8_cache_gives_what_its_numbers_give_in_bfloat16(isa: str, dtype: torch.dtype) -> None:
    pages = [latents.stored(random(3, 4, width), dtype) for width in (40, 6)]
    batch = {"starts": [0, 2], "lengths": [11], "page_tables": [torch.tensor([2, 0, 1])], "scale": 0.3}
    queries = random(2, 17, 40), random(2, 17, 6, seed=1)
    out_THC = native_attention.mla_decode(*queries, *pages, **batch)  # type: ignore[arg-type]
    wide = [part.bfloat16() for part in pages]
    assert torch.equal(out_THC, native_attention.mla_decode(*queries, *wide, **batch))  # type: ignore[arg-type]
