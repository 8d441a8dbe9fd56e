"""Short Python programs judged per second: each of our drivers beside evalplus, on the same completions in one run.

The programs are the solutions of HumanEval+ and MBPP+ whose own work is short, and one mutation of each; CODERV2_DATA
names the folder of the data. What evalplus works out once (the reference's answers) is outside of both times.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.plus_completions import Completion, completions
from benchmarks.plus_peer import HOW, PYTHON, EvalPlus
from benchmarks.record import interleaved, record
from coderv2.evaluation import plus
from coderv2.sandbox.judge import Judge, Program
from coderv2.sandbox.run import DRIVERS

ROUNDS = 3
SHORT_SECONDS = 0.1  # for all of a task's questions in our sandbox
MOST = 200
WORKERS = 2


def main() -> None:
    """Warm, two workers for each."""
    if "CODERV2_DATA" not in os.environ or not PYTHON.exists():
        print(f"judging: skipped. It needs CODERV2_DATA, the folder of benchmark data, and evalplus ({HOW})")
        return
    judges = {name: Judge(make(), workers=WORKERS) for name, make in DRIVERS.items()}
    chosen, programs = _short(Path(os.environ["CODERV2_DATA"]), judges["namespaces"])
    with tempfile.TemporaryDirectory() as folder:
        peer = EvalPlus(chosen, Path(folder), WORKERS)
        runs: dict[str, Callable[[], object]] = {
            name: _judging(judge, programs) for name, judge in judges.items()
        }
        seconds = interleaved({**runs, "evalplus": peer.judge}, ROUNDS)
        peer.close()
    rows: list[dict[str, Any]] = [
        {
            "judge": name,
            "programs": len(programs),
            "programs/s": len(programs) / seconds[name],
            "times evalplus": seconds["evalplus"] / seconds[name],
        }
        for name in seconds
    ]
    for judge in judges.values():
        judge.close()
    record("judging", rows, [])


def _judging(judge: Judge, programs: list[Program]) -> Callable[[], object]:
    return lambda: list(judge.judge(programs))


def _short(folder: Path, judge: Judge) -> tuple[list[Completion], list[Program]]:
    usual = [one for one in completions(folder) if one.kind in ("right", "wrong")][::2]
    rows = {one.row["task_id"]: one.row for one in usual if len(str(one.row["plus_input"])) < 100_000}
    truths = dict(zip(rows, judge.judge(map(plus.reference, rows.values())), strict=True))
    short = {name for name, verdict in truths.items() if verdict.passed and verdict.seconds < SHORT_SECONDS}
    chosen = [one for one in usual if one.row["task_id"] in short][:MOST]
    return chosen, [plus.program(one.row, one.code, truths[one.row["task_id"]].stdout) for one in chosen]


if __name__ == "__main__":
    main()
