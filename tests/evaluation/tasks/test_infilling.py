"""Verdicts on infilled programs beside those of a plain process that runs prefix, middle, suffix and tests."""

import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from coderv2 import paths
from coderv2.evaluation.asking import Decoding, Exchange, Infill, Problem, Reply
from coderv2.evaluation.data import Data
from coderv2.evaluation.tasks import TASKS
from coderv2.evaluation.tasks.infilling import Infilling, first_line
from coderv2.sandbox.judge import Judge

MOST = 180  # problems of each kind
KINDS = ("single-line", "multi-line", "random-span")


def task(kind: str) -> Infilling:
    found = TASKS[f"infilling-{kind}"]
    assert isinstance(found, Infilling)
    return found


def code_of(kind: str, row: dict[str, Any], text: str) -> str:
    exchange = Exchange(Infill(row["prompt"], row["suffix"], Decoding(1)), Reply(text))
    return task(kind).code(Problem(row["task_id"], row), exchange)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("x", "x\n"),
        ("x\ny\n", "x\n"),
        ("\n\n  x\ny", "\n\n  x\n"),
        ("\n", "\n"),
        ("x\r\ny", "x\r\n"),
    ],
)
def test_the_first_line_with_text_counts(text: str, line: str) -> None:
    assert first_line(text) == line


@pytest.mark.parametrize("kind", ["multi-line", "random-span"])
def test_a_middle_that_holds_the_suffixs_first_line_stays_whole(kind: str) -> None:
    row = {"task_id": "x", "prompt": "def f(x):\n", "suffix": "    x += 1\n    return x\n"}
    middle = "    x += 1\n    x += 1\n    x += 2\n"
    assert code_of(kind, row, middle) == f"def f(x):\n{middle}    x += 1\n    return x\n"


def replies(rows: list[dict[str, Any]]) -> list[str]:
    """For one third the author's middle, for one a neighbour's, for one the author's with something changed."""
    chance = random.Random(0)
    return [
        (
            row["canonical_solution"],
            rows[(number + 1) % len(rows)]["canonical_solution"],
            _changed(row["canonical_solution"], chance),
        )[number % 3]
        for number, row in enumerate(rows)
    ]


def _changed(middle: str, chance: random.Random) -> str:
    half = middle[: len(middle) // 2]
    change = chance.choice(("", half, middle.replace("1", "2"), middle + "    pass\n", middle * 2))
    return change.replace("<", "<=") if chance.random() < 0.3 else change


def plainly(row: dict[str, Any], middle: str, folder: Path) -> bool:
    """As the authors' harness judges: the joined text is run, and passes if nothing is raised in time."""
    program = f"{row['prompt']}{middle}{row['suffix']}\n{row['test']}\ncheck({row['entry_point']})\n"
    file = folder / f"{row['task_id'].replace('/', '-')}.py"
    file.write_text(program, "utf-8")
    try:
        done = subprocess.run([sys.executable, "-I", file], capture_output=True, cwd=folder, timeout=10)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_process_gives_the_same_verdicts(kind: str, tmp_path: Path) -> None:
    if paths.data() is None:
        pytest.skip("CODERV2_DATA names no folder of benchmark data")
    every = Data().rows(task(kind).sources[0])
    rows = every[:: max(1, len(every) // MOST)][:MOST]
    given = replies(rows)
    middles = [first_line(text) if kind == "single-line" else text for text in given]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        wanted = list(threads.map(plainly, rows, middles, [tmp_path] * len(rows)))
    with Judge() as judge:
        programs = (
            task(kind).program(Problem(row["task_id"], row), code_of(kind, row, text))
            for row, text in zip(rows, given, strict=True)
        )
        ours = [verdict.passed for verdict in judge.judge(programs)]
    differ = [row["task_id"] for row, a, b in zip(rows, ours, wanted, strict=True) if a != b]
    assert len(rows) == MOST
    assert MOST / 3 <= sum(wanted) < MOST
    assert not differ
