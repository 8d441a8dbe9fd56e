"""How LiveCodeBench's programs are judged."""

import json
from collections.abc import Iterator

import pytest

from coderv2.evaluation.asking import Problem
from coderv2.evaluation.tasks.livecodebench import TASKS, same_values, with_library
from coderv2.sandbox.judge import Judge, Program, Verdict

(TASK,) = TASKS


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(workers=1) as judge:
        yield judge


def called(code: str, *tests: tuple[str, str]) -> Program:
    """The program of a problem whose method `f` is called."""
    rows = [{"input": given, "output": wanted, "testtype": "functional"} for given, wanted in tests]
    return TASK.program(Problem("q", {"tests": rows, "metadata": json.dumps({"func_name": "f"})}), code)


def reading(code: str, given: str, wanted: str) -> Program:
    """The program of a problem that reads and writes."""
    return TASK.program(
        Problem("q", {"tests": [{"input": given, "output": wanted, "testtype": "stdin"}]}), code
    )


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("0.50", "0.5\n", True),
        ("  1 2.0\n", "1.0 2", True),
        ("a \n\tb", "a\nb", True),
        ("0.50", "0.51", False),
        ("1\n2", "1", False),
        ("1 2", "1 2 3", False),
        ("0.5 a", "0.50 a", False),
        ("nan", "NaN", False),
        ("", "", True),
    ],
)
def test_lines_are_equal_as_decimals_too(printed: str, expected: str, same: bool) -> None:
    """0.50 was wrong where 0.5 is expected."""
    assert same_values(printed, expected) is same


def test_a_printed_decimal_passes(judge: Judge) -> None:
    assert judge.judge_one(reading("print('0.50')", "", "0.5\n")).passed


def test_starter_code_finds_its_types(judge: Judge) -> None:
    """`List` of the starter code was a NameError."""
    code = "class Solution:\n    def f(self, numbers: List[int]) -> int:\n        return sum(numbers)\n"
    assert judge.judge_one(called(code, ("[1, 2]", "3"))).passed
    assert judge.judge_one(reading("print(len(deque([1, 2])))", "", "2")).passed


def test_imports_from_the_future_stay_first() -> None:
    code = with_library('"""Twice."""\nfrom __future__ import annotations\nprint(2)\n')
    compile(code, "program.py", "exec")
    assert code.count("annotations") == 1


def test_each_call_has_its_own_time(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three tests one might take as long as all."""
    monkeypatch.setattr("coderv2.evaluation.tasks.livecodebench._SECONDS", 1.0)
    once = "import time\nclass Solution:\n    def f(self, n):\n        try:\n            time.sleep(1.5 * (n == 0))\n        except BaseException:\n            pass\n        return n\n"  # noqa: E501
    tests = [(str(n), str(n)) for n in range(3)]
    late: Verdict = judge.judge_one(called(once, *tests))
    assert (late.passed, late.reason) == (False, "timeout")
    assert judge.judge_one(called(once.replace("1.5 * (n == 0)", "0.6"), *tests)).passed
