"""Products with weights in fewer bits, beside the numbers that those weights stand for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.gpu.place import DEVICE, close, numbers
from coderv2.kernels import scaled
from coderv2.kernels.gpu import linear, tiles


@pytest.mark.parametrize("static", [False, True])
def test_activations_are_rounded_as_the_plain_definition_does(static: bool) -> None:
    x_TD = numbers(3, 200)
    fixed = torch.tensor([0.01], device=DEVICE) if static else None
    codes, scales = linear.round_rows(x_TD, fixed)
    wanted_codes, wanted_scales = scaled.round_rows(x_TD, fixed)
    close(scales, wanted_scales)
    assert torch.equal(codes.float(), wanted_codes.float())


@pytest.mark.parametrize("fixed", [None, 0.01])
def test_rows_of_experts_elsewhere_and_what_follows_a_slice_reach_no_scale(fixed: float | None) -> None:
    scale = None if fixed is None else torch.tensor([fixed], device=DEVICE)
    experts_TK = torch.tensor([[0, -1], [-1, 3]], device=DEVICE)
    pairs = linear.Pairs(experts_TK, slices=1, width=130)
    rows_PF = numbers(6, 200)
    clean_PF, dirty_PF = rows_PF.clone(), rows_PF.clone()
    for row, first in ((1, 0), (2, 130), (3, 0), (5, 130)):
        clean_PF[row, first:], dirty_PF[row, first:] = 0, torch.inf
    found, wanted = (linear.round_rows(dirty_PF, scale, pairs), linear.round_rows(clean_PF, scale))
    assert torch.equal(found[0].view(torch.uint8), wanted[0].view(torch.uint8))
    assert torch.equal(found[1], wanted[1])


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("kind", ["blocks", "whole", "static"])
def test_fp8(rows: int, kind: str) -> None:
    weight = scaled.to_fp8(
        numbers(150, 300, seed=1), whole=kind != "blocks", input_scale=0.01 if kind == "static" else None
    )
    x_TD = numbers(rows, 300)
    rounded = scaled.restore_rows(*scaled.round_rows(x_TD, weight.input_scale))
    close(linear.linear(x_TD, weight), rounded @ scaled.restore(weight).T, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("shared", [1, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codes_of_a_checkpoint_multiply_activations_as_they_are(
    rows: int, shared: int, dtype: torch.dtype
) -> None:
    codes = numbers(150, 300, seed=1).to(scaled.FP8)
    scales_OS = numbers(150, 3, seed=2).abs().clamp(min=0.1)
    scales_OS = scales_OS[::shared].repeat_interleave(shared, 0)[:150]
    weight = scaled.Stored(shared).scaled(codes, scales_OS)
    x_TD = numbers(rows, 300, dtype=dtype)
    wanted_TO = (x_TD.float() @ scaled.restore(weight).T).to(dtype)
    tolerance = {"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 2**-6, "atol": 0.2}
    close(linear.linear(x_TD, weight), wanted_TO, **tolerance)


def test_every_code_means_what_it_means_to_pytorch() -> None:
    """Zeros, the smallest below the normal ones, and the largest; not a number is none of them."""
    bytes_N = torch.tensor([n for n in range(256) if n & 0x7F != 0x7F], dtype=torch.uint8)
    codes = torch.zeros(len(bytes_N), 128, dtype=torch.uint8)
    codes[:, 5] = bytes_N
    ones_O1 = torch.ones(len(codes), 1, device=DEVICE)
    weight = scaled.Stored(128).scaled(codes.view(scaled.FP8).to(DEVICE), ones_O1)
    x_TD = torch.zeros(1, 128, device=DEVICE)
    x_TD[:, 5] = 1
    assert torch.equal(linear.linear(x_TD, weight)[0].cpu(), bytes_N.view(scaled.FP8).float())


@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 5))
@settings(max_examples=8)
def test_int4(rows: int, outs: int, groups: int) -> None:
    weight = scaled.to_int4(numbers(outs, groups * 64, seed=1))
    x_TD = numbers(rows, groups * 64)
    close(linear.linear(x_TD, weight), x_TD @ scaled.restore(weight).T, rtol=1e-3, atol=1e-3)


def test_bfloat16_activations() -> None:
    weight = scaled.to_int4(numbers(32, 128, seed=1))
    x_TD = numbers(4, 128, dtype=torch.bfloat16)
    out_TO = linear.linear(x_TD, weight)
    assert out_TO.dtype == torch.bfloat16
    close(out_TO, (x_TD.float() @ scaled.restore(weight).T).bfloat16(), rtol=2**-6, atol=0.1)


def test_few_rows_are_split_so_that_the_gpu_is_full() -> None:
    tile = tiles.Tile(16, 32, 128)
    assert linear.split(1, 32, 4096, tile, torch.device("cpu")) == tiles.INTERPRETED
    assert linear.split(1, 32, 256, tile, torch.device("cpu")) == 1
    assert linear.split(1000, 4096, 4096, tile, torch.device("cpu")) == 1
