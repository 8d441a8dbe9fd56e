"""AGIEval's languages, and its questions without options."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from coderv2.evaluation.asking import Complete, Exchange, Problem, Reply, Style
from coderv2.evaluation.tasks.agieval import TASKS
from tests.evaluation.fakes import FakeTools, data_with
from tests.evaluation.tasks import invented

(AGIEVAL,) = TASKS
CHOICE = {"passage": None, "question": "1 + 1?", "options": ["(A)1", "(B)2"], "label": "B", "answer": None}
CLOZE = {"passage": None, "question": "1/4 + 1/4?", "options": None, "label": None, "answer": "\\frac{1}{2}"}


def problem(tmp_path: Path, group: str, row: dict[str, Any]) -> Problem:
    files = {f"v1/{group}.jsonl": json.dumps(row)}
    data = data_with(tmp_path, {"agieval/agieval-permissive.tar.gz": invented.archive(files)})
    (found,) = AGIEVAL.problems(data)
    return found


@pytest.mark.parametrize("row", [CHOICE, CLOZE], ids=["choice", "cloze"])
@pytest.mark.parametrize("style", ["base", "chat"])
@pytest.mark.parametrize(
    ("group", "chinese"),
    [
        ("gaokao-english", False),
        ("logiqa-en", False),
        ("sat-math", False),
        ("gaokao-mathcloze", True),
        ("gaokao-physics", True),
        ("logiqa-zh", True),
        ("jec-qa-kd", True),
    ],
)
def test_each_set_is_asked_in_its_own_language(
    tmp_path: Path, group: str, chinese: bool, style: Style, row: dict[str, Any]
) -> None:
    """gaokao-english got Chinese words, logiqa-zh and jec-qa English ones, the Chinese cloze questions English ones."""
    shown = str(AGIEVAL.prompt(problem(tmp_path, group, row), style).shown)
    assert any("\u4e00" <= letter <= "\u9fff" for letter in shown) is chinese


@pytest.mark.parametrize(
    ("reply", "passes"),
    [
        (" $\\frac{1}{2}$", True),
        (" 0.5. We add 1/4 and 1/4.", True),
        (" 3/4, or half of that: 1/2", False),
        ("", False),
    ],
)
def test_a_base_model_answers_with_its_whole_line(tmp_path: Path, reply: str, passes: bool) -> None:
    """The last number of the line was taken."""
    cloze = problem(tmp_path, "math", CLOZE)
    ask = AGIEVAL.prompt(cloze, "base")
    assert isinstance(ask, Complete)
    score = asyncio.run(AGIEVAL.score(cloze, Exchange(ask, Reply(reply)), FakeTools()))
    assert score.passed is passes
