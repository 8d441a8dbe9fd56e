"""Aider's two tries."""

import asyncio
from pathlib import Path

from coderv2.errors import ContextTooLong
from coderv2.evaluation.asking import Chat, Place
from coderv2.evaluation.task import TOO_LONG
from coderv2.evaluation.tasks.aider import TASKS, edited
from tests.evaluation.fakes import FakeTools
from tests.evaluation.tasks import invented

(AIDER,) = TASKS
GOOD = "twice.py\n```python\ndef twice(x):\n    return 2 * x\n```"
BAD = "twice.py\n```python\ndef twice(x):\n    return x\n```"


def attempt(tmp_path: Path, *replies: str | Exception):  # type: ignore[no-untyped-def]
    (problem,) = AIDER.problems(invented.data(tmp_path))
    tools = FakeTools(replies, passes=lambda program: "2 * x" in str(program.files["twice.py"]))
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
