import ast
import dataclasses
import random

import pytest

from coderv2.data import exercises
from coderv2.errors import BadData


def test_every_exercise_of_the_bank_passes_its_checks_and_has_words() -> None:
    bank = exercises.bank()  # checks while it reads
    assert len(bank) > 100
    assert all(exercise.says and exercise.code.endswith("\n") for exercise in bank)
    assert any(exercise.topic == "a quick sort algorithm" for exercise in bank)


def test_a_wrong_solution_is_refused() -> None:
    right = next(exercise for exercise in exercises.bank() if exercise.name == "merge_sort")
    wrong = dataclasses.replace(right, code=right.code.replace("left[i] <= right[j]", "left[i] > right[j]"))
    with pytest.raises(BadData, match="exercise merge_sort fails"):
        exercises.checked(wrong)


def test_an_exercise_without_checks_is_refused() -> None:
    bare = dataclasses.replace(exercises.bank()[0], checks=())
    with pytest.raises(BadData, match="for want of checks"):
        exercises.checked(bare)


def test_renaming_a_parameter_keeps_the_solution_right() -> None:
    exercise = next(exercise for exercise in exercises.bank() if exercise.name == "quick_sort")
    variants = {exercise.renamed(random.Random(seed)).code for seed in range(20)}
    assert len(variants) > 2
    for code in variants:
        exercises.checked(dataclasses.replace(exercise, code=code))


def test_documents_are_python_and_the_same_at_each_run() -> None:
    made = list(exercises.documents(exercises.bank(), 1))
    assert [d.text for d in made] == [d.text for d in exercises.documents(exercises.bank(), 1)]
    assert len({d.id for d in made}) == len(made)
    for paper in made:
        ast.parse(paper.text)


@pytest.mark.parametrize(
    ("check", "shown"),
    [
        ("add(1, 2) == 3", ("add(1, 2)", "3")),
        ("is_even(4) is True", ("is_even(4)", "True")),
        ("(s := Stack(), len(s))[1] == 0", None),
        ("read(folder / 't') == 1", None),
        ("callable(x)", None),
    ],
)
def test_only_checks_a_reader_can_run_are_shown(check: str, shown: tuple[str, str] | None) -> None:
    assert exercises.example(check) == shown
