"""How LiveCodeBench's programs are judged."""

import json
from collections.abc import Iterator
from textwrap import indent

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


BUSY = "import time\nuntil = time.process_time() + {}\nwhile time.process_time() < until: pass\n"


def test_each_call_has_its_own_time(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three tests one might take as long as all."""
    monkeypatch.setattr("coderv2.evaluation.tasks.livecodebench._SECONDS", 1.0)
    busy = indent(BUSY, 12 * " ")
    once = f"class Solution:\n    def f(self, n):\n        try:\n{busy}        except BaseException:\n            pass\n        return n\n"  # noqa: E501
    tests = [(str(n), str(n)) for n in range(3)]
    late: Verdict = judge.judge_one(called(once.format("1.5 * (n == 0)"), *tests))
    assert (late.passed, late.reason) == (False, "timeout")
    assert judge.judge_one(called(once.format("0.6"), *tests)).passed


def test_time_that_others_take_is_not_the_programs(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine right programs were late by the clock on the wall."""
    monkeypatch.setattr("coderv2.evaluation.tasks.livecodebench._SECONDS", 1.0)
    wait = "import time\ntime.sleep(1.5)\n"
    call = "import time\nclass Solution:\n    def f(self, n):\n        return n\n"
    assert judge.judge_one(reading(f"{wait}print(1)", "", "1")).passed
    assert judge.judge_one(called(call.replace("return", "time.sleep(1.5); return"), ("1", "1"))).passed
    assert judge.judge_one(reading(f"{BUSY.format(2.5)}print(1)", "", "1")).reason == "timeout"
    assert judge.judge_one(reading(wait.replace("1.5", "9"), "", "1")).reason == "timeout"


def test_a_right_output_is_never_too_long(judge: Judge) -> None:
    """2.2 MB were expected, and one was allowed."""
    wanted = "\n".join(map(str, range(10**9, 10**9 + 200_000)))
    code = "print(*range(10**9, 10**9 + int(input())), sep='\\n')"
    assert judge.judge_one(reading(code, "200000", wanted)).passed
    assert judge.judge_one(reading(code, "500000", wanted)).reason == "output"
