"""Numbers from samples."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderv2.evaluation.score import Item, bootstrap, macro, mcnemar, mean, pass_at_k, pass_rate, wilson


def items(values: dict[str, list[float]], groups: dict[str, str] | None = None) -> list[Item]:
    return [
        Item(problem, index, (groups or {}).get(problem, ""), value, "passed" if value else "wrong")
        for problem, samples in values.items()
        for index, value in enumerate(samples)
    ]


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_sample(n: int, data: st.DataObject) -> None:
    correct, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(combinations(range(n), k))
    share = sum(any(sample < correct for sample in draw) for draw in draws) / len(draws)
    assert math.isclose(pass_at_k(n, correct, k), share, abs_tol=1e-12)


def test_pass_rate_gives_every_k_that_the_fewest_samples_allow() -> None:
    figures = pass_rate(items({"a": [1, 0, 0, 0, 0], "b": [0] * 5}))
    assert figures.value == pytest.approx(0.1)
    assert figures.others["pass@5"] == pytest.approx(0.5)
    assert figures.others["pass@5 stderr"] == pytest.approx(0.5)
    assert "pass@10" not in figures.others


def test_the_mean_is_over_problems_and_not_over_samples() -> None:
    figures = mean(items({"a": [1], "b": [0, 0, 0]}), "accuracy")
    assert (figures.value, figures.n, figures.samples) == (0.5, 2, 4)
    assert figures.reasons == {"wrong": 3, "passed": 1}


def test_wilson_knows_that_three_of_three_is_not_certain() -> None:
    low, high = wilson(1.0, 3)
    assert low == pytest.approx(0.438, abs=1e-3)
    assert high == 1.0


def test_macro_weighs_groups_alike_and_keeps_the_mean_over_items() -> None:
    found = macro(
        items({"a": [1], "b": [1], "c": [1], "d": [0]}, {"a": "x", "b": "x", "c": "x", "d": "y"}), "em"
    )
    assert (found.value, found.others["over items"]) == (0.5, 0.75)
    assert found.groups == {"x": 1.0, "y": 0.0}


def test_bootstrap_finds_the_error_of_a_mean() -> None:
    found = items({str(n): [n % 2] for n in range(400)})
    value, error, low, high = bootstrap(found, lambda item: [item.value], lambda rows: float(rows.mean()))
    assert value == 0.5
    assert error == pytest.approx(0.5 / math.sqrt(400), rel=0.15)
    assert low < 0.5 < high


def test_bootstrap_draws_problems_and_not_their_samples() -> None:
    """Twenty samples of each made the error a quarter of what it is."""
    found = items({str(n): [n % 2] * 20 for n in range(40)})
    _, error, _, _ = bootstrap(found, lambda item: [item.value], lambda rows: float(rows.mean()))
    assert error == pytest.approx(0.5 / math.sqrt(40), rel=0.15)


def each_in_a_group(values: dict[str, list[float]]) -> list[Item]:
    return items(values, {name: name for name in values})


def test_of_one_problem_a_group_the_macro_mean_is_as_uncertain_as_the_mean() -> None:
    """It was certain: 0.5 ± 0.0."""
    half = {str(n): [float(n % 2)] for n in range(10)}
    found, plain = macro(each_in_a_group(half), "em"), mean(items(half), "em")
    assert (found.value, found.stderr) == (0.5, pytest.approx(plain.stderr))
    assert (found.low, found.high) == (
        pytest.approx(plain.low, abs=0.02),
        pytest.approx(plain.high, abs=0.02),
    )
    full = {str(n): [1.0] for n in range(10)}
    assert macro(each_in_a_group(full), "em").low == pytest.approx(wilson(1.0, 10)[0])


def test_samples_of_one_problem_do_not_make_a_macro_mean_surer() -> None:
    groups = {str(n): str(n % 4) for n in range(40)}
    once, often = ({str(n): [float(n // 4 % 2)] * k for n in range(40)} for k in (1, 20))
    assert macro(items(often, groups), "").stderr == pytest.approx(macro(items(once, groups), "").stderr)


def test_the_macro_means_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Nineteen times in twenty, with few problems in each group and with many."""
    draw = np.random.default_rng(1)
    truth = np.linspace(0.2, 0.9, 12)
    for size in (1, 3, 10):
        names = [(g, f"{g}/{i}") for g in range(12) for i in range(size)]
        groups, held = {name: str(g) for g, name in names}, 0
        for _ in range(300):
            values = {name: [float(draw.random() < truth[g])] for g, name in names}
            found = macro(items(values, groups), "")
            held += found.low <= truth.mean() <= found.high
        assert 0.92 <= held / 300 <= 0.995


@pytest.mark.parametrize(
    ("worse", "better", "chance"), [(0, 0, 1.0), (0, 5, 0.0625), (5, 5, 1.0), (1, 9, 0.021484375)]
)
def test_mcnemar_is_exact(worse: int, better: int, chance: float) -> None:
    assert mcnemar(worse, better) == pytest.approx(chance)


def test_the_interval_of_a_share_stays_within_nothing_and_all_and_a_ratings_does_not() -> None:
    assert mean(items({"a": [1, 0], **{f"b{i}": [0, 0] for i in range(9)}}), "").low == 0.0
    assert mean(items({"a": [1, 0], **{f"b{i}": [1, 1] for i in range(9)}}), "").high == 1.0
    assert mean(items({"a": [9.0], "b": [10.0], "c": [10.0]}), "").high > 10.0
