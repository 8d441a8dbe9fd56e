"""Several tasks in one run: one that makes no number does not end it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coderv2.evaluation import suite
from coderv2.evaluation.data import Data
from coderv2.evaluation.run import Settings
from coderv2.evaluation.score import Figures, Item, Unmeasured
from coderv2.evaluation.toolbox import Toolbox
from tests.evaluation.fakes import Scripted, Sums


@dataclass(frozen=True, kw_only=True)
class Silent(Sums):
    """Nothing that was said counts."""

    name: str = "silent"

    def figures(self, items: Sequence[Item]) -> Figures:
        raise Unmeasured("none counts")


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
