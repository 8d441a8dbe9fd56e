"""evalplus in an environment of its own, as a peer to be compared with."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.plus_completions import Completion

PYTHON = Path(os.environ.get("EVALPLUS_PYTHON", ".venv-evalplus/bin/python"))
HOW = (
    f"no {PYTHON}: python -m venv .venv-evalplus && .venv-evalplus/bin/pip install evalplus==0.3.1, "
    "or let EVALPLUS_PYTHON name the Python of an environment that has it"
)


class EvalPlus:
    """Judges the same completions as often as it is asked."""

    def __init__(self, completions: Sequence[Completion], folder: Path, workers: int) -> None:
        file = folder / "completions.jsonl"
        with file.open("w", encoding="utf-8") as lines:
            for one in completions:
                lines.write(json.dumps({"dataset": one.dataset, "row": one.row, "code": one.code}) + "\n")
        script = Path(__file__).with_name("evalplus_peer.py")
        self._peer = subprocess.Popen(
            [PYTHON, script, file, str(workers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "HOME": str(folder)},  # where it would keep its cache
        )
        self._line()

    def judge(self) -> dict[str, Any]:
        """`seconds` for all of them, and who `passed`."""
        assert self._peer.stdin
        self._peer.stdin.write("\n")
        self._peer.stdin.flush()
        result: dict[str, Any] = json.loads(self._line())
        return result

    def close(self) -> None:
        """Ends it."""
        self._peer.communicate()

    def _line(self) -> str:
        assert self._peer.stdout
        line = self._peer.stdout.readline()
        if not line:
            raise RuntimeError("evalplus ended; run benchmarks/evalplus_peer.py by hand to see why")
        return line
