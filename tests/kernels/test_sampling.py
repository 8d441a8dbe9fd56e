"""The C++ kernels draw what `drawing` defines, token for token."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from coderv2.kernels import drawing, sampling
from coderv2.kernels.cpu import kernels
from coderv2.kernels.drawing import Rule

pytestmark = pytest.mark.skipif(kernels is None, reason="the CPU kernels are not built")

NAN, INFINITE = float("nan"), float("inf")
RULES = st.builds(
    Rule,
    temperature=st.one_of(st.sampled_from([1.0, 1e-40, 1e40]), st.floats(0.05, 5)),
    top_k=st.one_of(st.just(0), st.integers(1, 300)),
    top_p=st.one_of(st.just(1.0), st.floats(1e-6, 1)),
    min_p=st.one_of(st.just(0.0), st.floats(0, 1)),
    luck=st.one_of(st.sampled_from([0.0, 1 - 2**-53]), st.floats(0, 1, exclude_max=True)),
)


@st.composite
def rows(draw: Any) -> Tensor:
    """Spread or flat, with many equals, masks, and numbers that are none; widths that fit no vector."""
    width, seed = draw(st.integers(1, 2100)), draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    scores_NW = torch.randn(3, width, generator=generator) * draw(
        st.sampled_from([0.0, 0.01, 1.0, 6.0, 1e37])
    )
    if draw(st.booleans()):
        scores_NW = scores_NW.round()
    for strange, share in (
        (-INFINITE, draw(st.sampled_from([0, 0.5, 0.99]))),
        (NAN, 0.01),
        (INFINITE, 0.001),
    ):
        if draw(st.booleans()):
            scores_NW[torch.rand(scores_NW.shape, generator=generator) < share] = strange
    return scores_NW


@settings(max_examples=300, deadline=None)
@given(scores_NW=rows(), rules=st.lists(RULES, min_size=3, max_size=3))
def test_draws_and_peaks_are_those_of_the_definition(scores_NW: Tensor, rules: list[Rule]) -> None:
    assert sampling.draw(list(scores_NW), rules) == drawing.draw(scores_NW, rules).tolist()
    ids_N, finite_N = drawing.peaks(scores_NW)
    assert sampling.peaks(scores_NW) == (ids_N.tolist(), finite_N.tolist())


@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0, 8.0])
def test_a_real_vocabulary_is_drawn_from_alike(spread: float) -> None:
    scores_NW = spread * torch.randn(8, 102_400, generator=torch.Generator().manual_seed(1))
    for rule in (
        Rule(),
        Rule(top_p=0.95),
        Rule(0.6, top_k=50, top_p=0.9),
        Rule(1.3, min_p=0.02),
        Rule(top_p=0.01),
    ):
        rules = [rule._replace(luck=(i + 0.5) / 8) for i in range(8)]
        assert sampling.draw(list(scores_NW), rules) == drawing.draw(scores_NW, rules).tolist()


def test_rows_may_lie_anywhere_and_what_cannot_be_read_is_drawn_by_the_definition() -> None:
    scores_NW = torch.randn(4, 64, generator=torch.Generator().manual_seed(2))
    rules = [Rule(luck=i / 4) for i in range(4)]
    expected = drawing.draw(scores_NW, rules).tolist()
    assert sampling.draw([scores_NW[i] for i in range(4)], rules) == expected
    across_NW = scores_NW.T.contiguous().T
    assert sampling.draw(list(across_NW), rules) == expected
    assert sampling.peaks(across_NW) == sampling.peaks(scores_NW)
    assert sampling.peaks(scores_NW[:, :50][::2])[0] == scores_NW[::2, :50].argmax(-1).tolist()
    assert sampling.draw([], []) == []
