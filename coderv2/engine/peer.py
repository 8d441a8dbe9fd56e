"""A peer in a process of its own: llama.cpp, through the llama-cpp-python package of this or another Python."""

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any

from coderv2.errors import Unsupported

PROGRAM = Path(__file__).with_name("peer_llama.py")


class Peer:
    """The program while it runs; leaving the context ends it, so that its memory is free."""

    def __init__(self, python: str) -> None:
        self._errors = TemporaryFile("w+")  # noqa: SIM115
        try:
            # As text rather than by its path: the folder of our modules must not be where it looks for its own.
            self._process = subprocess.Popen(
                [python, "-c", PROGRAM.read_text("utf-8")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
            )
        except OSError as error:
            self._errors.close()
            raise Unsupported(f"--peer-python {python}: {error.strerror}") from None

    def __enter__(self) -> "Peer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ask(self, name: str, **values: Any) -> dict[str, Any]:
        """One command's answer; Unsupported where the program ended instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": name, **values}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None
        line = self._process.stdout.readline()
        if not line:
            raise self._failure()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _failure(self) -> Unsupported:
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines() or [f"exit code {self._process.returncode}"]
        if "No module named 'llama_cpp'" in lines[-1]:
            return Unsupported(
                "the peer's Python has no llama_cpp: pip install llama-cpp-python there, or name another one with "
                "--peer-python"
            )
        return Unsupported(f"the peer ended: {lines[-1]}")
