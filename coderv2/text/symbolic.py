"""Whether two formulas mean the same: math-verify in a process of its own, since it may never come to an end."""

import atexit
import contextlib
import json
import selectors
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec

from coderv2.errors import ServiceError, Unsupported

SECONDS = 5.0  # for one comparison
_STARTING = 60.0  # sympy takes its time


class Comparer:
    """Asks `verifying` in a child process; one that hangs or dies is replaced, and the two count as different."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Held here only while it owes no answer: whatever interrupts a question, the next one gets another child.
        self._child: subprocess.Popen[str] | None = None

    def equal(self, gold: str, answer: str) -> bool:
        """Whether `answer` means what `gold` does. Raises Unsupported without math-verify."""
        with self._lock:
            child, self._child = self._child or _started(), None
            try:
                with _ended_on_error(child):
                    said = _asked(child, gold, answer)
            except (BrokenPipeError, TimeoutError):
                return False
            self._child = child
            return said == "true"

    def close(self) -> None:
        """Ends the child."""
        with self._lock:
            child, self._child = self._child, None
            if child:
                _end(child)


def lacks() -> str | None:
    """What to install before formulas can be compared; None when it is there."""
    if find_spec("math_verify") is None:
        return "math-verify, which compares formulas: pip install math-verify"
    return None


def _started() -> "subprocess.Popen[str]":
    if missing := lacks():
        raise Unsupported(f"formulas cannot be compared without {missing}")
    command = [sys.executable, "-m", "coderv2.text.verifying"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        with _ended_on_error(child):
            _line(child, _STARTING)  # "ready"
    except (BrokenPipeError, TimeoutError) as error:
        raise ServiceError(f"the process that compares formulas did not start: {error!r}") from error
    return child


@contextlib.contextmanager
def _ended_on_error(child: "subprocess.Popen[str]") -> Iterator[None]:
    try:
        yield
    except BaseException:
        _end(child)
        raise


def _end(child: "subprocess.Popen[str]") -> None:
    child.kill()
    child.communicate()


def _asked(child: "subprocess.Popen[str]", gold: str, answer: str) -> str:
    assert child.stdin
    child.stdin.write(json.dumps([gold, answer]) + "\n")
    child.stdin.flush()
    return _line(child, SECONDS)


def _line(child: "subprocess.Popen[str]", seconds: float) -> str:
    assert child.stdout
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        if not selector.select(seconds):
            raise TimeoutError
    line = child.stdout.readline()
    if not line:
        raise BrokenPipeError
    return line.strip()


_comparer = Comparer()
atexit.register(_comparer.close)
equal = _comparer.equal
