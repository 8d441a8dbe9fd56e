"""The definition of drawing against a literal writing of it, token by token."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coderv2.kernels.drawing import ONE, Rule, draw, peaks, weigh

SCORES = st.lists(st.integers(-60, 0).map(lambda i: i / 4), min_size=1, max_size=40)
RULES = st.builds(
    Rule,
    temperature=st.sampled_from([0.25, 1.0, 1.7, 30.0]),
    top_k=st.integers(0, 12),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.001, 0.3, 1.0]),
    luck=st.floats(0, 1, exclude_max=True),
)


def weights_of(scores: list[float], temperature: float) -> list[int]:
    row_1W = torch.tensor([scores])
    peak_11 = row_1W.nan_to_num(float("-inf")).amax(-1, keepdim=True)
    weights_1W = weigh(row_1W, peak_11, torch.tensor([[temperature]], dtype=torch.float64))
    return [int(weight) for weight in weights_1W[0].tolist()]


def literal(scores: list[float], rule: Rule) -> int:
    """By lists, with sums that cannot be inexact."""
    weights = weights_of(scores, rule.temperature)
    order = list(range(len(weights)))
    if rule.cuts:
        order.sort(key=lambda i: (-weights[i], i))
        order = [i for i in order if weights[i] >= rule.min_p * ONE][: rule.top_k or None]
        mass, kept, count = sum(weights[i] for i in order), 0, 0
        while kept < rule.top_p * mass:
            kept += weights[order[count]]
            count += 1
        order = order[:count]
    point, so_far = rule.luck * float(sum(weights[i] for i in order)), 0
    for token in order:
        so_far += weights[token]
        if so_far > point:
            return token
    raise AssertionError("the point lies beyond the line")


@given(scores=SCORES, rule=RULES)
def test_a_draw_is_what_the_words_say(scores: list[float], rule: Rule) -> None:
    assert draw(torch.tensor([scores]), [rule]).tolist() == [literal(scores, rule)]


def test_weights_are_the_exponentials_in_whole_units() -> None:
    scores = [0.0, -0.1, -1.0, -7.5, -20.0, -24.0, -30.0, float("-inf"), float("nan")]
    found = weights_of(scores, 1.0)
    for score, weight in zip(scores[:6], found, strict=False):
        assert weight == pytest.approx(math.exp(score) * ONE, rel=3e-7, abs=0.5)
    assert found[0] == ONE
    assert found[6:] == [0, 0, 0]


def test_sums_of_weights_do_not_depend_on_their_order() -> None:
    scores_1W = torch.randn(1, 100_000, generator=torch.Generator().manual_seed(0))
    weights_W = weigh(scores_1W, scores_1W.amax(-1, keepdim=True), torch.ones(1, 1, dtype=torch.float64))[0]
    exact = sum(map(Fraction, weights_W.tolist()))
    assert weights_W.sum().item() == weights_W.flip(0).cumsum(0)[-1].item() == exact


def test_peaks_are_the_first_of_equals_and_pass_over_nan() -> None:
    nan, infinite = float("nan"), float("inf")
    rows = torch.tensor(
        [[1.0, 3, 3], [nan, -1, -2], [-infinite, -infinite, 0], [nan, nan, nan], [0, infinite, 1]]
    )
    ids_N, finite_N = peaks(rows)
    assert ids_N.tolist() == [1, 1, 2, 0, 1]
    assert finite_N.tolist() == [True, False, False, False, False]


@pytest.mark.parametrize("peak", [float("-inf"), float("inf")])
def test_a_row_without_a_finite_peak_gives_the_peak(peak: float) -> None:
    assert draw(torch.tensor([[float("-inf"), peak, float("-inf")]]), [Rule(luck=0.9)]).item() == (peak > 0)


@pytest.mark.parametrize("temperature", [1e-300, 1e300])
def test_extreme_temperatures_stay_finite_and_masked_tokens_stay_out(temperature: float) -> None:
    scores = torch.tensor([[5.0, 9.0, float("-inf"), 9.0]]).expand(50, 4)
    drawn = draw(scores, [Rule(temperature, luck=i / 50) for i in range(50)]).tolist()
    assert set(drawn) == ({1, 3} if temperature < 1 else {0, 1, 3})
