"""How many requests are in flight: as many as allowed, fewer when the endpoint says so, more again as it recovers."""

import asyncio
import time
from types import TracebackType


class Pace:
    """`async with pace:` around each request."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)
        self._in_flight = 0
        self._resume_at = 0.0
        self._freed = asyncio.Condition()

    @property
    def limit(self) -> int:
        """Requests that may be in flight now."""
        return int(self._limit)

    async def __aenter__(self) -> None:
        async with self._freed:
            await self._freed.wait_for(lambda: self._in_flight < self.limit)
            self._in_flight += 1
        while (wait := self._resume_at - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async with self._freed:
            self._in_flight -= 1
            self._freed.notify()

    def slow_down(self, seconds: float) -> None:
        """Half as many requests, and none for so long."""
        self._limit = max(1.0, self._limit / 2)
        self._resume_at = max(self._resume_at, time.monotonic() + seconds)

    def went_well(self) -> None:
        """One request more after each round of them that was served."""
        self._limit = min(self._most, self._limit + 1 / self._limit)
