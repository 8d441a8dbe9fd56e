"""Which requests have run out of time."""

import math
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from itertools import count

from coderv2.engine.request import Request
from coderv2.errors import InvalidValue


class Deadlines:
    """The open requests that have one, the nearest first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Request]] = []
        self._serial = count()

    def add(self, requests: Iterable[Request], when: float) -> None:
        """`when` is on the engine's clock; infinity is no deadline."""
        for request in requests if when < math.inf else ():
            heappush(self._heap, (when, next(self._serial), request))

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
    if not seconds > 0:
        raise InvalidValue(f"deadline must be a number of seconds above 0, not {seconds!r}", param="deadline")
    return now + seconds
