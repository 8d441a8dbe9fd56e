"""Commands in this process."""

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from coderv2.cli.main import run


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


RunCommand = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model sets torch's threads for the whole process, other tests included."""
    monkeypatch.setenv("CODERV2_THREADS", "1")


class _Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> RunCommand:
    """`command("complete", "x", stdin=…)`; stdin None is a terminal where nobody types."""

    def run_it(*arguments: object, stdin: str | bytes | None = None) -> Outcome:
        data = stdin.encode() if isinstance(stdin, str) else stdin or b""
        kind = _Terminal if stdin is None else io.TextIOWrapper
        monkeypatch.setattr(sys, "stdin", kind(io.BytesIO(data), "utf-8"))
        code = run([str(argument) for argument in arguments])
        return Outcome(code, *capfd.readouterr())

    return run_it
