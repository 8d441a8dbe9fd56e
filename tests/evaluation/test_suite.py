"""Several tasks in one run: one that makes no number does not end it."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from coderv2.errors import InvalidValue
from coderv2.evaluation import suite
from coderv2.evaluation.data import Data, Source
from coderv2.evaluation.run import Settings
from coderv2.evaluation.score import Figures, Item, Unmeasured, mean
from coderv2.evaluation.toolbox import Toolbox
from tests.evaluation.fakes import Scripted, Sums

QUIET = Settings(progress=False)


@dataclass(frozen=True, kw_only=True)
class Silent(Sums):
    """Nothing that was said counts."""

    name: str = "silent"

    def figures(self, items: Sequence[Item]) -> Figures:
        raise Unmeasured("none counts")


def ran(
    task: Sums, out: Path, generator: Scripted, toolbox: Toolbox, settings: Settings = QUIET
) -> suite.Summary:
    return asyncio.run(
        suite.run_all([task], Data(out), generator, out, settings, toolbox, skip_missing=False)
    )


def test_what_one_judge_rated_does_not_go_on_with_another(tmp_path: Path) -> None:
    """It did, and nothing named the judge."""
    task, model = Sums(refereed=True), Scripted(lambda ask, at: "0")
    for name in ("one", "one"):
        found = ran(task, tmp_path, model, Toolbox(referee=Scripted(lambda ask, at: "", name)))
    assert found["sums"]["judge"] == "one"
    with pytest.raises(InvalidValue, match="a run with judge 'one', and this one has 'two'"):
        ran(task, tmp_path, model, Toolbox(referee=Scripted(lambda ask, at: "", "two")))


def test_a_task_that_measures_by_tokens_is_listed_where_there_is_no_tokenizer(tmp_path: Path) -> None:
    """It ended the others: what a task measures by was read nowhere."""
    tasks, model = [Sums(name="long", measured_by_tokens=True), Sums()], Scripted(lambda ask, at: "0")
    work = suite.run_all(tasks, Data(tmp_path), model, tmp_path, QUIET, Toolbox(), skip_missing=True)
    found = asyncio.run(work)
    assert found["long"]["not_run"] == "the model's tokenizer: name it with --tokenizer MODEL"
    assert found["sums"]["n"] == 6


def test_a_limit_is_told_where_answers_are_unrated(tmp_path: Path) -> None:
    """Five were asked and one was rated: the note that only five were asked was gone."""

    @dataclass(frozen=True, kw_only=True)
    class Rated(Sums):
        def figures(self, items: Sequence[Item]) -> Figures:
            return mean(items[:1], "rating")

    model = Scripted(lambda ask, at: "0")
    found = ran(Rated(), tmp_path, model, Toolbox(), Settings(limit=5, progress=False))["sums"]
    assert (found["n"], found["asked"], found["there"], found["limit"]) == (1, 5, 6, 5)
    found = ran(Rated(), tmp_path, model, Toolbox(), Settings(limit=6, progress=False))["sums"]
    assert found["limit"] is None


def test_of_two_runs_into_one_folder_the_summary_holds_both(tmp_path: Path) -> None:
    """Each wrote back what it had read before the other's was there."""

    def add(run: int) -> None:
        for number in range(30):
            suite.write(tmp_path, {f"{run}/{number}": {"value": 1.0}})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, range(4)))
    assert len(suite.read(tmp_path)) == 120


def test_a_task_without_a_number_is_told_with_the_reason_and_the_next_is_run(tmp_path: Path) -> None:
    settings, generator = Settings(progress=False), Scripted(lambda ask, at: "0")
    work = suite.run_all(
        [Silent(), Sums()], Data(tmp_path), generator, tmp_path, settings, Toolbox(), skip_missing=False
    )
    found = asyncio.run(work)
    assert found["silent"]["value"] is None
    assert found["silent"]["not_run"] == f"none counts; the replies are in {tmp_path}/silent.jsonl"
    assert (tmp_path / "silent.jsonl").read_text().count("\n") == 7
    assert found["sums"]["n"] == 6


def test_data_that_cannot_be_fetched_ends_no_other_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`eval all` without a network ended at the first such task, whose data was called ready."""
    monkeypatch.delenv("CODERV2_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = Source("far/rows.jsonl", (tmp_path / "nowhere").as_uri())
    tasks, model = [Sums(name="far", sources=(source,)), Sums()], Scripted(lambda ask, at: "0")
    assert not suite.ready(tasks[0], Data())
    found = asyncio.run(suite.run_all(tasks, Data(), model, tmp_path, QUIET, Toolbox(), skip_missing=True))
    assert "cannot be fetched" in found["far"]["not_run"]
    assert found["sums"]["n"] == 6
