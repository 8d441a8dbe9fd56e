"""Whether a number of ours was measured as the published one was, and what was not the same."""

from collections.abc import Iterator, Mapping
from typing import Any

from coderv2.evaluation.published import JUDGES, OTHERWISE, PROBLEMS, TABLES
from coderv2.evaluation.tasks import TASKS

Figures = Mapping[str, Any]
"""A task's part of a summary."""


def is_published(task: str) -> bool:
    """Whether there is a number to stand beside."""
    return any(task in table.tasks for table in TABLES)


def unlike(task: str, figures: Figures) -> list[str]:
    """What differs from the published measurement, where it is known; nothing where the two may be compared."""
    return [*_problems(task, figures), *_settings(task, figures), *_judge(task, figures)]


def _problems(task: str, figures: Figures) -> Iterator[str]:
    asked, rated = figures.get("asked", figures["n"]), figures["n"]
    if task in PROBLEMS and asked != PROBLEMS[task]:
        yield f"{asked:,} problems instead of {PROBLEMS[task]:,}"
    if rated != asked:
        yield f"{asked - rated:,} of them without a rating"
    if task in OTHERWISE:
        yield OTHERWISE[task]


def _settings(task: str, figures: Figures) -> Iterator[str]:
    published = TASKS[task].styles[0]
    if figures["prompt"] != published:
        yield f"prompt {figures['prompt']} instead of {published}"
    for name in ("temperature", "top_p", "max_tokens"):
        if figures.get(name) is not None:
            yield f"{name} {figures[name]} instead of the protocol's"


def _judge(task: str, figures: Figures) -> Iterator[str]:
    judge = str(figures.get("judge")).partition(" at ")[0]
    if task in JUDGES and judge not in JUDGES[task]:
        yield f"judge {judge} instead of {JUDGES[task][0]}"
