"""Weights in fewer bits: what they stand for is near what they were made of, and nothing is larger than told."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coderv2.errors import InvalidValue, Unsupported
from coderv2.kernels import scaled
from coderv2.model.scale import scalable, scale


def _weight(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@given(st.integers(1, 300), st.integers(1, 300), st.booleans())
def test_fp8_errs_by_a_sixteenth_at_most(O: int, I: int, whole: bool) -> None:
    weight = _weight(O, I)
    rounded = scaled.to_fp8(weight, whole=whole)
    assert rounded.shape == (O, I)
    # Half a step of three bits; below e4m3's normal numbers, half a step of 2⁻⁹ times the scale.
    bound = weight.abs() / 16 + rounded.scales.max() * 2**-10
    assert bool(((scaled.restore(rounded) - weight).abs() <= bound).all())


@given(st.integers(1, 40), st.integers(1, 4))
def test_int4_errs_by_half_a_step(O: int, groups: int) -> None:
    weight = _weight(O, groups * scaled.GROUP)
    rounded = scaled.to_int4(weight)
    step = rounded.scales[..., 0].float().repeat_interleave(scaled.GROUP, -1)
    # And float16's rounding of the least number.
    assert bool(((scaled.restore(rounded) - weight).abs() <= step * 0.501 + 2**-9).all())
    assert rounded.nbytes * 8 == weight.numel() * 4.5


def test_stacks_are_rounded_expert_by_expert() -> None:
    stack = _weight(3, 130, 192)
    for make in (scaled.to_fp8, scaled.to_int4):
        whole, first = make(stack), make(stack[1])
        assert torch.equal(scaled.restore(whole)[1], scaled.restore(first))


def test_rows_come_back() -> None:
    x_TD = _weight(5, 200)
    near = scaled.restore_rows(*scaled.round_rows(x_TD))
    assert bool(((near - x_TD).abs() <= x_TD.abs() / 16 + 1e-4).all())
    fixed = scaled.restore_rows(*scaled.round_rows(x_TD, torch.tensor([0.001])))
    assert fixed.abs().max() == pytest.approx(0.448)


def test_widths_that_groups_do_not_divide_are_named() -> None:
    with pytest.raises(InvalidValue, match="do not divide 100"):
        scaled.to_int4(_weight(4, 100))
    with pytest.raises(Unsupported, match="100 of q_proj"):
        scale(_weight(4, 100), "int4", "q_proj")


def test_router_vocabulary_and_norms_stay_as_they_are() -> None:
    matrix = _weight(4, 4)
    assert not any(scalable(name, matrix) for name in ("gate", "lm_head", "embed_tokens", "kv_b_proj"))
    assert not scalable("norm", matrix[0])
    assert scalable("gate_proj", matrix)
