"""What a driver has running, all of which ends with the driver."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from coderv2.errors import SandboxFailed


class Running:
    """Functions that end something, each until it has ended by itself. Threads may share one."""

    def __init__(self) -> None:
        self._ends: set[Callable[[], None]] = set()
        self._closed = False
        self._lock = threading.Lock()

    def add(self, end: Callable[[], None]) -> None:
        """Raises SandboxFailed, having called it, when all is to end already."""
        with self._lock:
            self._ends.add(end)
        if self._closed:
            end()
        self.raise_if_closed()

    def discard(self, end: Callable[[], None]) -> None:
        """It has ended."""
        with self._lock:
            self._ends.discard(end)

    @contextmanager
    def until_ended(self, end: Callable[[], None]) -> Iterator[None]:
        """While this lasts. Whatever interrupts it ends it too; raises SandboxFailed when it was `close` that did."""
        self.add(end)
        try:
            yield
        except BaseException:
            end()
            raise
        finally:
            self.discard(end)
        self.raise_if_closed()

    def raise_if_closed(self) -> None:
        """Raises SandboxFailed."""
        if self._closed:
            raise SandboxFailed("the sandbox was closed")

    def close(self) -> None:
        """Ends all of it, and what is added later."""
        with self._lock:
            self._closed = True
            ends, self._ends = self._ends, set()
        for end in ends:
            end()
