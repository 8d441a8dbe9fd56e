"""All processes of a process namespace but its first one, which is who asks."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress


class Offspring:
    """What a first process started, what that started, and so on: orphans become the first one's children."""

    def __init__(self) -> None:
        assert os.getpid() == 1, "only the first process of a namespace may end all others"
        self._ended: dict[int, int] = {}

    def reap(self) -> None:
        """Buries the dead, who would count as processes."""
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                self._ended.update([ended])

    def end(self) -> None:
        """Kills all of them at once; none is left when this returns.

        The kernel holds back every fork while it delivers the signal, so that nobody can run from it.
        """
        with suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        with suppress(ChildProcessError):
            while True:
                self._ended.update([os.wait()])

    def exit_code(self, pid: int) -> int:
        """Of a process that has ended: its exit status, or minus the signal that killed it."""
        return os.waitstatus_to_exitcode(self._ended[pid])


def living() -> Iterator[int]:
    """Every process of the namespace but the first, dead ones that are not buried too."""
    return (int(name) for name in os.listdir("/proc") if name.isdecimal() and name != "1")  # noqa: PTH208
