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


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("kind", ["blocks", "whole", "static"])
def test_fp8(rows: int, kind: str) -> None:
    weight = scaled.to_fp8(
        numbers(150, 300, seed=1), whole=kind != "blocks", input_scale=0.01 if kind == "static" else None
    )
    x_TD = numbers(rows, 300)
    rounded = scaled.restore_rows(*scaled.round_rows(x_TD, weight.input_scale))
    close(linear.linear(x_TD, weight), rounded @ scaled.restore(weight).T, rtol=1e-3, atol=1e-3)


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
