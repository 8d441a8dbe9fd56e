"""The number taken from a worked reply, beside the protocol's own regular expressions."""

import re
from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coderv2 import paths
from coderv2.evaluation.data import Data
from coderv2.evaluation.tasks import TASKS
from coderv2.text import answers

# As published with the data (grade-school-math's `extract_answer`), and as DeepSeek's evaluation reads a box.
MARKED = re.compile(r"#### (\-?[0-9\.\,]+)")
BOXED = re.compile(r"\\boxed\{\s*\\?\$?(-?[0-9.,]+?)\.?\s*(?:\\?%|\\text\{[^{}]*\}|[a-z ]*)\}")
SAID = re.compile(r"answer is:? *\\?\$?(-?[0-9.,]*[0-9])")
WAYS: dict[str, tuple[re.Pattern[str], Callable[[str], str]]] = {
    "marked": (MARKED, "so it is\n#### {}".format),
    "boxed": (BOXED, "so it is $\\boxed{{{}}}$.".format),
    "boxed money": (BOXED, "Thus \\boxed{{\\${}}} in all.".format),
    "boxed percent": (BOXED, "which makes \\boxed{{{}\\%}}".format),
    "boxed unit": (BOXED, "hence \\boxed{{{} \\text{{ apples}}}}".format),
    "boxed dot": (BOXED, "hence \\boxed{{{}.}}".format),
    "said": (SAID, "The answer is {}.".format),
    "said money": (SAID, "So the answer is: ${}.\n".format),
}
LOOKS: list[Callable[[Decimal], str]] = ["{:f}".format, "{:,f}".format, "{:.2f}".format, "{:,.1f}".format]


def reference(way: str, reply: str) -> Decimal:
    """The last match, without commas."""
    return Decimal(WAYS[way][0].findall(reply)[-1].replace(",", ""))


def agrees(way: str, reply: str, gold: Decimal) -> bool:
    """Whether ours reads the same number, and gives the same verdict."""
    ours, theirs = answers.final_number(reply), reference(way, reply)
    return Decimal(ours) == theirs and answers.same_number(f"{gold}", ours) == (theirs == gold)


@settings(max_examples=600)
@given(
    way=st.sampled_from(sorted(WAYS)),
    look=st.sampled_from(LOOKS),
    number=st.integers(-(10**7), 10**7).map(Decimal),
    off=st.sampled_from([0, 0, 1, -3]),
    steps=st.lists(
        st.sampled_from(["3 + 4 = 7 eggs.", "That costs $1,200.50.", "\\boxed{9}", "Half of 8 is 4"])
    ),
)
def test_the_same_number_is_read_however_it_is_written(
    way: str, look: Callable[[Decimal], str], number: Decimal, off: int, steps: list[str]
) -> None:
    if not way.startswith("boxed"):  # a box comes before what is said
        steps = [step for step in steps if "boxed" not in step]
    assert agrees(way, "\n".join([*steps, WAYS[way][1](look(number + off))]), number)


@pytest.mark.slow
def test_the_protocols_expressions_read_the_same_from_the_datas_own_solutions() -> None:
    """Each solution in all ways, right and off by one: the reasoning is full of other numbers."""
    if paths.data() is None:
        pytest.skip("CODERV2_DATA names no folder of benchmark data")
    rows = Data().rows(TASKS["gsm8k"].sources[0])
    replies = [
        (way, f"{reasoning.strip()}\n{write(LOOKS[number % len(LOOKS)](wanted + number % 2))}", wanted)
        for number, row in enumerate(rows)
        for reasoning, _, gold in [row["answer"].rpartition("####")]
        for wanted in [Decimal(gold.strip().replace(",", ""))]
        for way, (_, write) in WAYS.items()
    ]
    assert len(replies) >= 500
    assert [reply for way, reply, wanted in replies if not agrees(way, reply, wanted)] == []
