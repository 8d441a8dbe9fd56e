"""Lines of a benchmark as they are measured: on the screen, and in files that outlive whatever ends the run."""

import datetime
import json
import os
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, machine

Line = dict[str, Any]
BROKEN = 3
"""Exit status of a process that must be started anew to measure the rest."""


class Journal:
    """One run's lines, a JSON object each: what was measured, and the figures or the error."""

    def __init__(self, *paths: Path, broken: Callable[[], bool] = lambda: False) -> None:
        """All get every line; what the first has already is not measured again. None: the screen alone.

        `broken` says after an error whether this process can measure nothing more: it ends with the status BROKEN then.
        """
        self._paths, self._broken = paths, broken
        first = next((path for path in paths if path.exists()), None)
        self.lines: list[Line] = [json.loads(text) for text in _texts(first)] if first else []

    @property
    def failed(self) -> list[Line]:
        """Lines that are an error."""
        return [line for line in self.lines if "error" in line]

    def write(self, line: Line) -> None:
        """One more, which no end of this process can take away."""
        self.lines.append(line)
        print("  ".join(f"{key} {_short(value)}" for key, value in line.items()), flush=True)
        for path in self._paths:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def attempt(self, what: Line, work: Callable[[], Mapping[str, Any]]) -> None:
        """A line of `what` and the figures of `work`, or how that failed; nothing where there is such a line."""
        if any(what.items() <= line.items() for line in self.lines):
            return
        try:
            found = dict(work())
        except Exception as error:  # the next figure may work
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}"[:500]}
        self.write(what | found)
        if "error" in found and self._broken():
            raise SystemExit(BROKEN)


def begun(subject: str, packages: tuple[str, ...]) -> str:
    """The name of a new file, with a first line about this machine."""
    now = datetime.datetime.now(datetime.UTC)
    name = f"{now:%Y-%m-%d}_{subject}_{now:%H%M%S}.jsonl"
    journal = Journal(*places(name))
    journal.write({"what": "machine", "date": now.isoformat(timespec="seconds"), **machine(packages)})
    return name


def places(name: str) -> tuple[Path, ...]:
    """Where a file of this name is kept."""
    RESULTS.mkdir(exist_ok=True)
    out = os.environ.get("OUT")
    return (RESULTS / name, *([Path(out) / name] if out else []))


def _texts(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
