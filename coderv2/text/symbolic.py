"""Whether two formulas mean the same: math-verify in a process of its own, since it may never come to an end."""

import atexit
import json
import selectors
import subprocess
import sys
import threading
from importlib.util import find_spec

from coderv2.errors import Unsupported

SECONDS = 5.0  # for one comparison
_STARTING = 60.0  # sympy takes its time


class Comparer:
    """Asks `verifying` in a child process; one that hangs or dies is replaced, and the two count as different."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None

    def equal(self, gold: str, answer: str) -> bool:
        """Whether `answer` means what `gold` does. Raises Unsupported without math-verify."""
        with self._lock:
            child = self._child or self._started()
            assert child.stdin
            try:
                child.stdin.write(json.dumps([gold, answer]) + "\n")
                child.stdin.flush()
                return _line(child, SECONDS) == "true"
            except (BrokenPipeError, TimeoutError):
                self._end()
                return False

    def close(self) -> None:
        """Ends the child."""
        with self._lock:
            self._end()

    def _started(self) -> "subprocess.Popen[str]":
        if find_spec("math_verify") is None:
            raise Unsupported("comparing formulas needs math-verify: pip install 'coderv2[evaluation]'")
        command = [sys.executable, "-m", "coderv2.text.verifying"]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        _line(self._child, _STARTING)
        return self._child

    def _end(self) -> None:
        if self._child:
            self._child.kill()
            self._child.communicate()
        self._child = None


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
