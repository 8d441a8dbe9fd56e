"""Why a program did not pass, read from how it ended."""

import re
import signal
from typing import Literal, get_args

from coderv2.sandbox.languages import Language
from coderv2.sandbox.limits import Outcome

Reason = Literal["passed", "wrong", "error", "compile", "timeout", "memory", "output", "toolchain", "sandbox"]
REASONS: tuple[Reason, ...] = get_args(Reason)
DETAIL = 2000  # characters of the standard error that are kept, the last ones
_OUT_OF_MEMORY = re.compile(
    "MemoryError|bad_alloc|OutOfMemoryError|OutOfMemoryException|Allowed memory size|heap out of memory|"
    "cannot allocate memory",
    re.IGNORECASE,
)
_BY_SIGNAL: dict[int, Reason] = {
    -signal.SIGXCPU: "timeout",
    -signal.SIGALRM: "timeout",
    -signal.SIGPROF: "timeout",
    -signal.SIGXFSZ: "output",
}


class Failed(Exception):
    """A program that did not pass."""

    def __init__(self, reason: Reason, detail: str, stdout: bytes = b"") -> None:
        super().__init__(reason)
        self.reason, self.detail, self.stdout = reason, detail, stdout


def raise_if_failed(outcome: Outcome, language: Language) -> None:
    """Raises Failed unless the program ended well."""
    error = last(outcome.stderr)
    if not error and outcome.code != 0:  # Go's tests complain on standard output
        error = last(outcome.stdout)
    said_wrong = language.wrong in error
    if outcome.code == 0 and not (language.silent and said_wrong):
        return
    detail = error or f"ended with {outcome.status} {outcome.code}"
    raise Failed(_reason(outcome, language, error, said_wrong), detail, outcome.stdout)


def _reason(outcome: Outcome, language: Language, error: str, said_wrong: bool) -> Reason:
    if outcome.status in ("timeout", "memory", "output"):
        return outcome.status
    if outcome.code in _BY_SIGNAL:
        return _BY_SIGNAL[outcome.code]
    if _OUT_OF_MEMORY.search(error):
        return "memory"
    if language.syntax and language.syntax in error:
        return "compile"
    return "wrong" if said_wrong else "error"


def last(stderr: bytes) -> str:
    """The end of what a program said about its failure."""
    return stderr.decode(errors="replace").strip()[-DETAIL:]
