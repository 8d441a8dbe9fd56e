# ruff: noqa: E501  programs as they are
"""Aider's two tries."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from coderv2.errors import ContextTooLong
from coderv2.evaluation.asking import Chat, Place
from coderv2.evaluation.task import TOO_LONG
from coderv2.evaluation.tasks.aider import TASKS, edited
from coderv2.sandbox.judge import Judge, Verdict
from tests.evaluation.fakes import FakeTools
from tests.evaluation.tasks import invented

(AIDER,) = TASKS
GOOD = "twice.py\n```python\ndef twice(x):\n    return 2 * x\n```"
BAD = "twice.py\n```python\ndef twice(x):\n    return x\n```"


def attempt(tmp_path: Path, *replies: str | Exception):  # type: ignore[no-untyped-def]
    (problem,) = AIDER.problems(invented.data(tmp_path))
    tools = FakeTools(replies, passes=lambda program: b"2 * x" in program.stdin)
    return asyncio.run(AIDER.attempt(Place("aider", problem), "chat", tools)), tools


def test_the_first_try_shows_instructions_and_stub_but_no_tests(tmp_path: Path) -> None:
    found, tools = attempt(tmp_path, GOOD)
    assert found.score.others == {"pass rate 1": 1.0, "well formed": 1.0}
    text = tools.asked[0].messages[1].content
    assert "Write twice." in text
    assert "twice.py\n```python\ndef twice(x):\n    pass\n```" in text
    assert "TwiceTest" not in text


def test_the_second_try_sees_what_the_tests_said(tmp_path: Path) -> None:
    found, tools = attempt(tmp_path, BAD, GOOD)
    assert found.score.passed
    assert found.score.others["pass rate 1"] == 0.0
    again = tools.asked[1]
    assert isinstance(again, Chat)
    assert [m.role for m in again.messages] == ["system", "user", "assistant", "user"]
    assert again.messages[3].content.startswith("said the tests")
    assert len(tools.programs) == 2


def test_a_second_try_without_room_keeps_what_the_first_one_was_worth(tmp_path: Path) -> None:
    """The prompt of the first try was recorded as too long, without figures."""
    found, _ = attempt(tmp_path, BAD, ContextTooLong("9000 tokens"))
    assert (found.score.reason, found.exchange.reply.finish_reason) == (TOO_LONG, "context")
    assert found.score.others == {"pass rate 1": 0.0, "well formed": 1.0}


def test_two_failures_are_a_failure_and_a_lost_file_is_counted(tmp_path: Path) -> None:
    found, _ = attempt(tmp_path, "I cannot.", BAD)
    assert (found.score.value, found.score.others["well formed"]) == (0.0, 0.0)


def test_files_are_found_under_their_names() -> None:
    two = "a.py\n```\n1\n```\nthen `b.py`:\n\n**b.py**\n```python\n2\n```\n"
    assert edited(two, ["a.py", "b.py"]) == {"a.py": "1\n", "b.py": "2\n"}
    assert edited("```\nx\n```", ["a.py"]) == {"a.py": "x\n"}
    assert edited("```\nx\n```\n```\ny\n```", ["a.py"]) == {}


EVIL = {
    "another verdict": "import unittest\nunittest.TestResult.wasSuccessful = lambda self: True\n",
    "no comparison": "import unittest\nunittest.TestCase.assertEqual = lambda *_: None\n",
    "failures are none": "import unittest\nunittest.TextTestResult.addFailure = unittest.TextTestResult.addSuccess\n",
    "no tests": "import unittest\nunittest.TestLoader.getTestCaseNames = lambda *_: []\n",
    "other builtins": "import builtins\nbuiltins.all = lambda _: True\n",
    "all skipped": "import unittest\ndef twice(x):\n    raise unittest.SkipTest\n",
    "an end before the tests": "import os\nos._exit(0)\n",
    "another report": 'import json\njson.dumps = lambda _: \'{"whole": 1, "said": "", "passed": ["twice_test.TwiceTest.test_it"]}\'\n',
    "other code of a comparison": "import unittest\nunittest.TestCase.assertEqual.__code__ = (lambda *_: None).__code__\n",
    "other code of the call": "import unittest\nunittest.TestCase._callTestMethod.__code__ = (lambda *_: None).__code__\n",
    "other code below a decorator": "import unittest.case\ndef quiet(*_):\n    try:\n        yield\n    except BaseException:\n        pass\nunittest.case._Outcome.testPartExecutor.__wrapped__.__code__ = quiet.__code__\n",
    "contexts that hold errors back": "import contextlib\ncontextlib._GeneratorContextManager.__exit__ = lambda self, *_: next(self.gen, True)\n",
    "other tests": "def twice(x):\n    import twice_test\n    twice_test.TwiceTest.assertEqual = lambda *_: None\n",
    "a report on all pipes": "import os\nfor fd in range(3, 20):\n    try:\n        os.write(fd, b'{}')\n    except OSError:\n        pass\n",
    "a word on the output": "print('passed')\nraise SystemExit(0)\n",
}


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(workers=1) as judge:
        yield judge


def judged(judge: Judge, tmp_path: Path, solution: str) -> Verdict:
    (problem,) = AIDER.problems(invented.data(tmp_path))
    return judge.judge_one(AIDER.program(problem, solution))


@pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL.keys())
def test_a_solution_that_patches_the_tests_has_not_passed_them(
    judge: Judge, tmp_path: Path, evil: str
) -> None:
    """`unittest.TestResult.wasSuccessful = lambda self: True` passed."""
    solution = evil if "def twice" in evil else f"{evil}\ndef twice(x):\n    return x\n"
    assert not judged(judge, tmp_path, solution).passed


def test_the_first_fifty_lines_of_the_tests_come_back_and_nothing_of_the_judge(
    judge: Judge, tmp_path: Path
) -> None:
    """They were cut at 1,900 characters at their end, then at 2,000 at their begin, with the runner's traceback."""
    solution = "def twice(x):\n    raise ValueError('\\n'.join(f'{n} ' + 60 * '.' for n in range(99)))\n"
    verdict = judged(judge, tmp_path, solution)
    lines = verdict.detail.splitlines()
    assert (verdict.reason, len(lines)) == ("wrong", 50)
    assert lines[0] == "E"
    assert lines[2].startswith("ERROR: test_it")
    assert 'File "twice.py", line 2, in twice' in verdict.detail
    assert "checker" not in verdict.detail
    assert judged(judge, tmp_path, "def twice(x):\n    return 2 * x\n").passed
