"""AIME: what most samples of a problem say."""

import pytest

from coderv2.evaluation.score import Item
from coderv2.evaluation.tasks.aime import majority


def items(problem: str, *said: tuple[str, float]) -> list[Item]:
    return [Item(problem, n, "", value, "", kept={"vote": vote}) for n, (vote, value) in enumerate(said)]


def test_the_most_frequent_answer_of_a_problem_counts_and_of_equals_the_first() -> None:
    right = items("1", ("7", 0.0), ("204", 1.0), ("204", 1.0))
    wrong = items("2", ("7", 0.0), ("113", 1.0), ("7", 0.0))
    tie = items("3", ("371", 1.0), ("8", 0.0))
    assert majority(right) == 1.0
    assert majority(wrong) == 0.0
    assert majority(tie) == 1.0
    assert majority([*right, *wrong, *tie]) == pytest.approx(2 / 3)


def test_samples_without_an_answer_have_no_vote() -> None:
    """Where the model could not be asked nothing is kept, which was a KeyError."""
    assert majority(items("1", ("", 0.0), ("", 0.0), ("385", 1.0))) == 1.0
    assert majority([Item("1", 0, "", 0.0, "prompt too long for the model")]) == 0.0


def test_an_answer_with_leading_zeros_is_the_same_vote() -> None:
    votes = [("12", 0.0), ("12", 0.0), ("12", 0.0), ("073", 1.0), ("073", 1.0), ("73", 1.0), ("73", 1.0)]
    assert majority(items("1", *votes)) == 1.0
