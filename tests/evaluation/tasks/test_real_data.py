"""Canonical and empty answers on the real data, where somebody has it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from coderv2 import paths
from coderv2.evaluation import generate, suite
from coderv2.evaluation.data import Data
from coderv2.evaluation.run import Settings, run
from coderv2.evaluation.tasks import TASKS
from coderv2.evaluation.toolbox import Toolbox
from coderv2.sandbox.judge import Judge
from tests.tiny_tokenizer import tiny_tokenizer

pytestmark = pytest.mark.slow
WITH_CANONICAL = [
    name
    for name, task in TASKS.items()
    if not task.refereed and not name.startswith("humaneval-") and name not in ("swe-bench-lite", "defects4j")
]


@pytest.fixture(scope="module")
def toolbox() -> Iterator[Toolbox]:
    with Judge() as judge:
        box = Toolbox(judge)
        yield box
        box.close()


@pytest.mark.parametrize("name", [*WITH_CANONICAL, "humaneval-plus"])
def test_canonical_answers_are_right_and_empty_ones_are_not(
    name: str, toolbox: Toolbox, tmp_path: Path
) -> None:
    if paths.data() is None:
        pytest.skip("CODERV2_DATA names no folder of benchmark data")
    task, data = TASKS[name], Data(tokenizer=tiny_tokenizer())
    if missing := suite.lacks(task, data, refereed=False):
        pytest.skip("; ".join(missing))
    settings = Settings(limit=100, progress=False)
    full = generate.canonical(TASKS, settings_style(settings))
    assert asyncio.run(run(task, data, full, tmp_path / "full", settings, toolbox)).value == 1.0
    empty = asyncio.run(run(task, data, generate.empty(), tmp_path / "empty", settings, toolbox)).value
    assert empty <= (0.06 if name.startswith("infilling") else 0.0)  # some lines of a program are redundant


def settings_style(settings: Settings):  # type: ignore[no-untyped-def]
    return lambda name: settings.chosen_style(TASKS[name])
