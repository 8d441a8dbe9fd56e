import random
import re

import pytest

from coderv2.data import exercises
from coderv2.data.conversations import Conversation, conversations, printed, small_talk


@pytest.fixture(scope="module")
def talks() -> list[Conversation]:
    return list(conversations(4))


def test_every_conversation_ends_with_the_assistant(talks: list[Conversation]) -> None:
    assert len(talks) > 800
    for talk in talks:
        turns = [message.role for message in talk if message.role != "system"]
        assert turns == ["user", "assistant"] * (len(turns) // 2)


def test_the_published_example_question_is_asked_and_answered_by_a_sort_that_works() -> None:
    answers = [
        talk[-1].content
        for talk in conversations(24)
        if talk[-2].content == "write a quick sort algorithm in python."
    ]
    assert answers
    for answer in answers:
        (code,) = re.findall(r"```python\n(.*?)```", answer, re.DOTALL)
        space: dict[str, object] = {}
        exec(code, space)
        assert "quick_sort" in space


def test_programs_print_what_the_answer_says() -> None:
    for seed in range(20):
        question, answer = printed(random.Random(seed))
        (code,) = re.findall(r"```python\n(.*?)```", question.content, re.DOTALL)
        (output,) = re.findall(r"```\n(.*?)```", answer.content, re.DOTALL)
        if code.startswith("print(") and code.count("\n") == 1:
            assert str(eval(code.strip()[6:-1])) + "\n" == output


def test_code_to_be_mended_differs_from_the_answer(talks: list[Conversation]) -> None:
    mended = [talk for talk in talks if talk[-1].content.startswith("This is the corrected code")]
    assert len(mended) > 20
    for talk in mended:
        wrong, right = (re.findall(r"```python\n(.*?)```", turn.content, re.DOTALL)[0] for turn in talk[-2:])
        assert wrong != right


def test_it_says_who_it_is_and_makes_no_claim_to_be_another() -> None:
    answers = dict(small_talk())
    assert "small bundled model of coderv2" in answers["Who are you?"]
    assert answers["Are you ChatGPT?"] == answers["Who are you?"]


def test_another_language_is_refused_honestly_and_answered_in_python(talks: list[Conversation]) -> None:
    asked = [talk for talk in talks if "C++" in talk[-2].content]
    assert asked
    assert all(talk[-1].content.startswith("I only know Python, not C++.") for talk in asked)


def test_answers_hold_solutions_from_the_bank(talks: list[Conversation]) -> None:
    codes = {exercise.code.strip() for exercise in exercises.bank()}
    fenced = [
        code.strip()
        for talk in talks
        for code in re.findall(r"```python\n(.*?)```", talk[-1].content, re.DOTALL)
    ]
    assert sum(code in codes for code in fenced) > 300
