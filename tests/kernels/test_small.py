"""Norms, rotation and the cache's rows against `reference`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coderv2.kernels import native_attention, reference
from tests.kernels.packed import HARD, random, relative_error

# Norm of the difference over norm of the result; both in float32.
NORM, TURN = 1e-6, 1e-6
EPS = 1e-6


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("width", [1, 16, 17, 512, 2048, 1536])
@pytest.mark.parametrize("rows", [1, 15, 70])
def test_rms_norm(isa: str, kind: str, width: int, rows: int) -> None:
    x_TD, weight_D = HARD[kind](random(rows, width)), random(width, seed=1)
    out_TD = native_attention.rms_norm(x_TD, weight_D, EPS)
    expected_TD = reference.rms_norm(x_TD.double(), weight_D.double(), EPS)
    assert relative_error(out_TD, expected_TD) < NORM


def test_rms_norm_of_what_is_too_large_too_small_or_not_finite(isa: str) -> None:
    x_TD, weight_D = random(6, 48), random(48, seed=1)
    clean_TD = native_attention.rms_norm(x_TD, weight_D, EPS)
    x_TD[1], x_TD[2], x_TD[3, 5], x_TD[4, 7] = 1e25, 1e-42, float("nan"), float("inf")
    out_TD = native_attention.rms_norm(x_TD, weight_D, EPS)
    assert torch.equal(out_TD[[0, 5]], clean_TD[[0, 5]])
    torch.testing.assert_close(out_TD, reference.rms_norm(x_TD, weight_D, EPS), equal_nan=True)


def test_rms_norm_reads_part_of_wider_rows(isa: str) -> None:
    raw, weight = random(21, 50), random(32, seed=1)
    part = raw.split([32, 18], -1)[0]
    out = native_attention.rms_norm(part, weight, EPS)
    assert torch.equal(out, native_attention.rms_norm(part.contiguous(), weight, EPS))
    assert torch.equal(native_attention.rms_norm(raw.T[:32].T, weight, EPS), out)


@given(st.lists(st.integers(0, 69), min_size=1, max_size=70))
@settings(max_examples=20)
def test_each_row_is_treated_by_itself(isa: str, chosen: list[int]) -> None:
    x_TD, weight_D = random(70, 33), random(33, seed=1)
    whole_TD = native_attention.rms_norm(x_TD, weight_D, EPS)
    assert torch.equal(native_attention.rms_norm(x_TD[chosen], weight_D, EPS), whole_TD[chosen])
    x_THR, angle_TR2 = random(70, 3, 8), random(70, 4, seed=1)
    turned = native_attention.rope(x_THR, angle_TR2.cos(), angle_TR2.sin())
    some = angle_TR2[chosen]
    assert torch.equal(native_attention.rope(x_THR[chosen], some.cos(), some.sin()), turned[chosen])


@pytest.mark.parametrize("shape", [(1, 2), (5, 8), (70, 64), (1, 1, 2), (33, 3, 10), (17, 16, 64)])
def test_rope(isa: str, shape: tuple[int, ...]) -> None:
    x, angle_TR2 = random(*shape), 100 * random(shape[0], shape[-1] // 2, seed=1)
    cos_TR2, sin_TR2 = angle_TR2.cos(), angle_TR2.sin()
    turned = native_attention.rope(x, cos_TR2, sin_TR2)
    expected = reference.rope(x.double(), cos_TR2.double(), sin_TR2.double())
    assert turned.shape == x.shape
    assert relative_error(turned, expected) < TURN


def test_rope_reads_part_of_wider_rows(isa: str) -> None:
    wide, angle_TR2 = random(9, 3, 24), random(9, 4, seed=1)
    part = wide.split([16, 8], -1)[1]
    tables = angle_TR2.cos(), angle_TR2.sin()
    expected = native_attention.rope(part.contiguous(), *tables)
    assert torch.equal(native_attention.rope(part, *tables), expected)
    assert torch.equal(native_attention.rope(wide[:, 1].split([16, 8], -1)[1], *tables), expected[:, 1])


def test_a_row_that_is_not_finite_turns_alone(isa: str) -> None:
    x_TR, angle_TR2 = random(20, 8), random(20, 4, seed=1)
    tables = angle_TR2.cos(), angle_TR2.sin()
    clean_TR = native_attention.rope(x_TR, *tables)
    x_TR[7, 2] = float("nan")
    out_TR = native_attention.rope(x_TR, *tables)
    kept = torch.ones(20, 8, dtype=torch.bool)
    kept[7, 2:4] = False
    assert torch.equal(out_TR[kept], clean_TR[kept])
    assert out_TR[7, 2:4].isnan().all()


SPECIAL = torch.tensor([0.0, -0.0, 1e-40, -1e-44, 3e38, 1.00390625, 1.01171875, float("inf"), -float("inf")])
"""Denormals, ties to even in both directions, and what rounds up to infinity."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [9, 64, 512])
@pytest.mark.parametrize("tokens", [0, 1, 37])
def test_cache_write_touches_its_slots_only(isa: str, dtype: torch.dtype, width: int, tokens: int) -> None:
    slots_T = torch.randperm(64, generator=torch.Generator().manual_seed(tokens))[:tokens]
    wide = random(tokens, width + 8)
    wide[:, :9] = SPECIAL
    parts = wide.split([width, 8], -1)  # rows apart, as they come from one product
    pages, expected = ([torch.full((4, 16, size), 7.0, dtype=dtype) for size in (width, 8)] for _ in range(2))
    native_attention.cache_write(*pages, slots_T, *parts)
    reference.cache_write(*expected, slots_T, *parts)
    for ours, theirs in zip(pages, expected, strict=True):
        assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))


def test_nan_in_the_cache_is_nan(isa: str) -> None:
    latent, k_rope = torch.zeros(1, 4, 32, dtype=torch.bfloat16), torch.zeros(1, 4, 2, dtype=torch.bfloat16)
    native_attention.cache_write(
        latent, k_rope, torch.tensor([2]), torch.full((1, 32), float("nan")), torch.zeros(1, 2)
    )
    assert latent[0, 2].isnan().all()
    assert not latent[0, [0, 1, 3]].any()


@pytest.mark.parametrize("width", [16, 33])
def test_no_rows_give_no_rows(isa: str, width: int) -> None:
    assert native_attention.rms_norm(torch.empty(0, width), torch.ones(width), EPS).shape == (0, width)
    assert native_attention.rope(torch.empty(0, 2, 8), torch.empty(0, 4), torch.empty(0, 4)).shape == (
        0,
        2,
        8,
    )
