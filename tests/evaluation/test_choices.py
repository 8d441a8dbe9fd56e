"""The letter that a chat model settled on."""

import pytest

from coderv2.evaluation.choices import letters
from coderv2.evaluation.tasks import TASKS


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("Answer: C", "C"),
        ("**Answer: B**", "B"),
        ("Answer:\n\n$A$", "A"),
        ("answer: d", "D"),
        ("A is wrong. The answer is (B).", "B"),
        ("B looks right, but the correct option is D.", "D"),
        ("Option A is false.\nAnswer: A\nNo.\nAnswer: B", "B"),
        (r"so \boxed{C}", "C"),
        (r"so \boxed{\text{C}}", "C"),
        ("B", "B"),
        ("(B)", "B"),
        ("B. Paris", "B"),
        ("故选C。", "C"),
        ("答案是C。", "C"),
        ("因此答案为C", "C"),
        ("答案：C。选项A是错误的。", "C"),
        ("正确选项为D", "D"),
        ("应选择 B。", "B"),
        ("Answer: ABD", "ABD"),
        ("故选AB", "AB"),
        ("答案：A、C", "AC"),
    ],
)
def test_a_letter_is_read_in_english_and_chinese(reply: str, letter: str) -> None:
    """Of the Chinese ones some gave nothing."""
    assert letters(reply, 4) == letter


@pytest.mark.parametrize(
    "reply",
    [
        "A prime number is a number that",
        "The answer is a prime number.",
        "Let us see. Option B is false because",
        "选项A是错误的",
        "Answer: E",
        "I",
        "",
    ],
)
def test_a_letter_that_merely_stands_somewhere_is_no_answer(reply: str) -> None:
    """ "A prime number" was the answer A."""
    assert letters(reply, 4) == ""


@pytest.mark.parametrize("name", ["arc-easy", "arc-challenge", "c-eval", "cmmlu"])
def test_tasks_with_examples_as_published_are_asked_with_them_by_default(name: str) -> None:
    """The default had none of ARC's 25 and of the Chinese examinations' five."""
    assert TASKS[name].styles[0] == "base"
