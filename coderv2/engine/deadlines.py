"""Which requests have run out of time."""

import math
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count

from coderv2.engine.request import Request
from coderv2.errors import InvalidValue, shown

_FEW = 64
"""Fewer are not worth going through."""


class Deadlines:
    """The open requests that have one, the nearest first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Request]] = []
        self._serial = count()
        self._swept = 0

    def __len__(self) -> int:
        """Those that are kept, with some that have ended."""
        return len(self._heap)

    def add(self, requests: Iterable[Request], when: float) -> None:
        """`when` is on the engine's clock; infinity is no deadline."""
        for request in requests if when < math.inf else ():
            heappush(self._heap, (when, next(self._serial), request))
        if len(self._heap) > 2 * self._swept + _FEW:
            self._sweep()

    def _sweep(self) -> None:
        """Lets go of those that have ended: deadlines may be far, and requests are many and hold their tokens."""
        self._heap = [entry for entry in self._heap if entry[2].finish_reason is None]
        heapify(self._heap)
        self._swept = len(self._heap)

    def passed(self, now: float) -> Iterator[Request]:
        """The requests whose time is up, each once; those that have ended already are left out."""
        while self._heap and self._heap[0][0] <= now:
            request = heappop(self._heap)[2]
            if request.finish_reason is None:
                yield request


def check_deadline(now: float, seconds: float | None) -> float:
    """When so many seconds from now will be; InvalidValue unless they are positive."""
    if seconds is None:
        return math.inf
    try:
        if seconds > 0:
            return now + seconds
    except (TypeError, OverflowError):
        pass
    message = f"deadline must be a number of seconds above 0, not {shown(seconds)}"
    raise InvalidValue(message, param="deadline")
