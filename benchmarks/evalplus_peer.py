"""Run by the Python of another environment, one that has evalplus: its verdicts on completions, and its time for them.

The first argument is a file of JSON lines: dataset, row, code. For each line on standard input all of them are judged
once, by as many workers as the second argument says; a line comes back with the seconds and who passed.
"""

import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from evalplus.data.mbpp import mbpp_deserialize_inputs  # type: ignore[import-not-found, unused-ignore]
from evalplus.eval import PASS  # type: ignore[import-not-found, unused-ignore]
from evalplus.eval._special_oracle import MBPP_OUTPUT_NOT_NONE_TASKS  # type: ignore[import-not-found, unused-ignore]
from evalplus.evaluate import check_correctness  # type: ignore[import-not-found, unused-ignore]
from evalplus.gen.util import trusted_exec  # type: ignore[import-not-found, unused-ignore]

_truths: dict[str, dict[str, Any]] = {}


def main(file: str, workers: int) -> None:
    """Works out the reference's answers first, outside of the time."""
    tasks = [json.loads(line) for line in Path(file).read_text("utf-8").splitlines()]
    for task in tasks:
        if task["dataset"] == "mbpp":
            for part in ("base_input", "plus_input"):
                task["row"][part] = mbpp_deserialize_inputs(task["row"]["task_id"], task["row"][part])
        if task["row"]["task_id"] not in _truths:
            _truths[task["row"]["task_id"]] = _truth(task["row"])
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(abs, range(workers)))
        print("ready", flush=True)
        for _ in sys.stdin:
            start = time.perf_counter()
            passed = list(pool.map(_passed, tasks))
            print(json.dumps({"seconds": time.perf_counter() - start, "passed": passed}), flush=True)


def _truth(row: dict[str, Any]) -> dict[str, Any]:
    code, entry = row["prompt"] + row["canonical_solution"], row["entry_point"]
    found = {"output_not_none": entry in MBPP_OUTPUT_NOT_NONE_TASKS, "record_time": True}
    truth: dict[str, Any] = {}
    for part in ("base", "plus"):
        truth[part], truth[f"{part}_time"] = trusted_exec(code, row[f"{part}_input"], entry, **found)
    return truth


def _passed(task: dict[str, Any]) -> bool:
    row = task["row"]
    result = check_correctness(
        task["dataset"], 0, row, task["code"], _truths[row["task_id"]], fast_check=True
    )
    return bool(result["base"][0] == result["plus"][0] == PASS)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
