"""One table on the screen, the same with machine, versions and date under `benchmarks/results/`."""

import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def interleaved(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, after one warm-up: every round times them all, so that a noisy minute hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in seconds.items()}


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """What the numbers were measured on and with."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:  # what is not installed was not used
        return None


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line each, under the names of their columns."""
    columns = list(rows[0])
    cells = [columns, *([_cell(row[c]) for c in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)
    return "\n".join(line.rstrip() for line in lines)


def record(
    subject: str, rows: Sequence[Mapping[str, Any]], packages: Sequence[str], *, keep: bool = True
) -> None:
    """Prints the rows as one table and keeps them in `results/DATE_subject.json`, unless they mean nothing."""
    print(f"\n{subject}\n{as_table(rows)}")
    if not keep:
        return
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    RESULTS.mkdir(exist_ok=True)
    kept = {"subject": subject, "date": today, "machine": machine(packages), "rows": list(rows)}
    (RESULTS / f"{today}_{subject}.json").write_text(json.dumps(kept, indent=2) + "\n")


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
