"""Every task on invented rows: canonical replies get the full score, empty and wrong ones none."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from coderv2.errors import InvalidValue
from coderv2.evaluation import generate
from coderv2.evaluation.asking import Style
from coderv2.evaluation.data import Data
from coderv2.evaluation.run import Settings, run
from coderv2.evaluation.score import Figures
from coderv2.evaluation.tasks import TASKS, named
from coderv2.evaluation.toolbox import Toolbox
from coderv2.sandbox.judge import Judge
from tests.evaluation.tasks import invented

SCORED = [
    name for name, task in TASKS.items() if not task.refereed and name not in ("swe-bench-lite", "defects4j")
]
CASES = [(name, style) for name in SCORED for style in TASKS[name].styles]
_WRONG = "The answer is: A\n```python\ndef double(x):\n    return 7 * x\n```\nSo the answer is -5."


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return invented.data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def toolbox() -> Iterator[Toolbox]:
    with Judge() as judge:
        box = Toolbox(judge)
        yield box
        box.close()


def score(
    name: str, style: Style, answers: generate.Answers, data: Data, toolbox: Toolbox, out: Path
) -> Figures:
    task = TASKS[name]
    if (lack := task.lacks()) is not None:
        pytest.skip(lack)
    return asyncio.run(run(task, data, answers, out, Settings(style=style, progress=False), toolbox))


@pytest.mark.parametrize(("name", "style"), CASES)
def test_canonical_replies_get_the_full_score(
    name: str, style: Style, data: Data, toolbox: Toolbox, tmp_path: Path
) -> None:
    figures = score(name, style, generate.canonical(TASKS, lambda task: style), data, toolbox, tmp_path)
    assert figures.value == 1.0, (tmp_path / f"{name}.jsonl").read_text()
    assert figures.reasons == {"passed": figures.samples}


@pytest.mark.parametrize(("name", "style"), CASES)
def test_empty_and_wrong_replies_get_nothing(
    name: str, style: Style, data: Data, toolbox: Toolbox, tmp_path: Path
) -> None:
    assert score(name, style, generate.empty(), data, toolbox, tmp_path / "empty").value == 0.0
    wrong = generate.Answers("wrong", lambda place: _WRONG)
    assert score(name, style, wrong, data, toolbox, tmp_path / "wrong").value == 0.0


def test_an_unknown_task_is_an_error_that_names_its_neighbours() -> None:
    with pytest.raises(InvalidValue, match="no task 'humaneval-perl'; there are humaneval, humaneval-java"):
        named(("humaneval-perl",))
    assert [task.name for task in named(("mmlu", "bbh", "mmlu"))] == ["mmlu", "bbh"]


def test_names_are_unique_and_titles_are_there() -> None:
    assert len({task.title for task in TASKS.values()}) == len(TASKS)
    assert all(task.sources or task.measured_by_tokens for task in TASKS.values())
