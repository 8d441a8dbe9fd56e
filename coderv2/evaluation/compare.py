"""Two runs side by side, problem by problem."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coderv2.errors import BadData
from coderv2.evaluation import records, suite
from coderv2.evaluation.records import Log
from coderv2.evaluation.refereed import SILENT
from coderv2.evaluation.score import Item, mcnemar

_OF_THE_MODEL = {"model", "checkpoint", "template", "tokenizer", "endpoint", "answers"}


@dataclass(frozen=True)
class Difference:
    """One task in two runs, over the problems that both have."""

    task: str
    first: float
    second: float
    both: int
    """Problems in both runs."""
    better: tuple[str, ...]
    """Problems that the second run does better, by id."""
    worse: tuple[str, ...]
    chance: float
    """That two equally good models would differ so much (McNemar's exact test over the problems that differ)."""
    unlike: Mapping[str, tuple[Any, Any]]
    """What else than the model was not the same, in the first run and in the second."""


@dataclass(frozen=True)
class Incomparable:
    """One task that two judges rated: their figures say nothing of the models."""

    task: str
    judges: tuple[str, str]


def differences(first: Path, second: Path) -> Iterator[Difference | Incomparable]:
    """For each task that both runs have. Raises BadData when there is none, or one of the two is no run."""
    both = suite.read(first).keys() & suite.read(second).keys()
    shared = [name for name in suite.read(first) if name in both and _has(first, name) and _has(second, name)]
    if not shared:
        raise BadData(f"{first} and {second} have no task in common")
    return (
        _compared(name, *(records.read(run / f"{name}.jsonl") for run in (first, second))) for name in shared
    )


def _has(run: Path, task: str) -> bool:
    return (run / f"{task}.jsonl").exists()


def _compared(task: str, first: Log, second: Log) -> Difference | Incomparable:
    names = [name for name in {**first.header, **second.header} if name not in _OF_THE_MODEL]
    pairs = {name: (first.header.get(name), second.header.get(name)) for name in names}
    unlike = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if "judge" in unlike:
        first_judge, second_judge = map(str, unlike["judge"])
        return Incomparable(task, (first_judge, second_judge))
    return _difference(task, _values(first), _values(second), unlike)


def _values(run: Log) -> dict[str, float]:
    """The mean over each problem's samples; where a judge rates, over those that it rated."""
    unrated = SILENT if run.header.get("judge") else ()
    by_problem: dict[str, list[Item]] = {}
    for item in map(records.item, run.samples):
        if item.reason not in unrated:
            by_problem.setdefault(item.problem, []).append(item)
    return {problem: sum(i.value for i in items) / len(items) for problem, items in by_problem.items()}


def _difference(
    task: str,
    first: Mapping[str, float],
    second: Mapping[str, float],
    unlike: Mapping[str, tuple[Any, Any]],
) -> Difference:
    both = [problem for problem in first if problem in second]
    better = tuple(problem for problem in both if second[problem] > first[problem])
    worse = tuple(problem for problem in both if second[problem] < first[problem])
    means = [sum(run[problem] for problem in both) / max(len(both), 1) for run in (first, second)]
    return Difference(
        task, means[0], means[1], len(both), better, worse, mcnemar(len(worse), len(better)), unlike
    )
