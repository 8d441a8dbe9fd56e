"""Two runs, problem by problem."""

import asyncio
from pathlib import Path

import pytest

from coderv2.errors import BadData
from coderv2.evaluation import suite
from coderv2.evaluation.compare import Difference, Incomparable, differences
from coderv2.evaluation.data import Data
from coderv2.evaluation.run import Settings
from coderv2.evaluation.toolbox import Toolbox
from tests.evaluation.fakes import Scripted, Sums


def run(folder: Path, right: set[int], count: int = 6) -> Path:
    generator = Scripted(lambda ask, at: str(2 * at.problem.row["n"] if at.problem.row["n"] in right else -1))
    settings, data = Settings(progress=False), Data(folder.parent)
    work = suite.run_all(
        [Sums(count=count)], data, generator, folder, settings, Toolbox(), skip_missing=False
    )
    asyncio.run(work)
    return folder


def test_problems_that_differ_are_named(tmp_path: Path) -> None:
    (one,) = differences(run(tmp_path / "a", {0, 1, 2}), run(tmp_path / "b", {2, 3}))
    assert (one.task, one.both, one.first, one.second) == ("sums", 6, 0.5, pytest.approx(1 / 3))
    assert one.better == ("sum/3",)
    assert one.worse == ("sum/0", "sum/1")
    assert one.chance == 1.0


def test_only_problems_of_both_count(tmp_path: Path) -> None:
    (one,) = differences(run(tmp_path / "a", set(range(9)), 9), run(tmp_path / "b", {0}, 4))
    assert (one.both, one.first, one.second, len(one.worse)) == (4, 1.0, 0.25, 3)


def test_a_task_that_two_judges_rated_is_not_compared_and_other_settings_are_told(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a", {0, 1}), run(tmp_path / "b", {0})
    path = second / "sums.jsonl"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1', 1))
    (one,) = differences(first, second)
    assert isinstance(one, Difference)
    assert one.unlike == {"seed": (0, 1)}
    path.write_text(path.read_text().replace('"judge": null', '"judge": "gpt-4"', 1))
    assert list(differences(first, second)) == [Incomparable("sums", ("None", "gpt-4"))]


def test_what_a_judge_did_not_rate_is_in_neither_mean(tmp_path: Path) -> None:
    """It counted as nothing: 8 against 4 where both of the rated answers got an 8."""
    first, second = run(tmp_path / "a", {0, 1, 2, 3, 4, 5}), run(tmp_path / "b", {0, 1, 2})
    for folder in (first, second):
        path = folder / "sums.jsonl"
        text = path.read_text().replace('"judge": null', '"judge": "gpt-4"')
        path.write_text(text.replace("wrong answer", "no rating"))
    (one,) = differences(first, second)
    assert isinstance(one, Difference)
    assert (one.first, one.second, one.both, one.worse) == (1.0, 1.0, 3, ())


def test_runs_without_a_common_task_are_an_error(tmp_path: Path) -> None:
    first = run(tmp_path / "a", {0})
    suite.write(tmp_path / "b", {"other": {"value": None}})
    with pytest.raises(BadData, match="no task in common"):
        differences(first, tmp_path / "b")
    with pytest.raises(BadData, match="holds no summary"):
        differences(first, tmp_path / "c")
