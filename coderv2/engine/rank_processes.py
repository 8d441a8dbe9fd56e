"""The other ranks' processes: started, told, heard, watched and ended.

Nobody can go on without the others: when a process dies, `failure` says why, waiting sums are broken off, and
`on_failure` is called so that a server can leave; what has not left some seconds later is ended. Nothing waits for
ever.
"""

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from coderv2.engine.follower import READY, Follower, follow
from coderv2.engine.opening import Opening
from coderv2.engine.parting import Parting
from coderv2.errors import EngineStopped
from coderv2.log import logger

GRACE_SECONDS = 15.0
"""What the first rank gets to leave by itself after another died."""
REASON_SECONDS = 10.0
"""What the true reason may take to be known."""
LEAVE_SECONDS = 5.0
"""What all get to leave together; who has not by then is ended."""


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C back until the end: a rank that leaves a step midway is out of step with the others for ever."""
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield  # it interrupts the main thread alone
        return
    held: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        if held:
            signal.raise_signal(signal.SIGINT)


class RankProcesses:
    """What the first rank says to the others, and hears of them."""

    def __init__(
        self, opening: Opening, follower: type[Follower], on_failure: Callable[[], object] = lambda: None
    ) -> None:
        """Starts them; each answers READY when it has loaded. `follower` is what each of them does."""
        self.failure: str | None = None
        self.on_failure = on_failure
        self._stopping = False
        self._words: dict[int, str] = {}
        """What ranks said last, where it was heard while something else was waited for."""
        self._parting = Parting()
        self._orders: list[Connection] = []
        self._processes: list[Any] = []
        for rank in range(1, opening.split.size):
            self._start(follower, rank, opening)
        threading.Thread(target=self._watch, name="coderv2-ranks", daemon=True).start()
        atexit.register(self.stop)

    def _start(self, *life: Any) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        name = f"coderv2-rank-{len(self._processes) + 1}"
        process = context.Process(target=follow, args=(*life, theirs), name=name, daemon=True)
        process.start()
        theirs.close()
        self._orders.append(ours)
        self._processes.append(process)

    def tell(self, order: str, *arguments: Any) -> None:
        """Has every other rank do `Follower.ORDER(*arguments)`; EngineStopped when one is gone."""
        for rank in range(1, len(self._orders) + 1):
            self.tell_one(rank, order, *arguments)

    def tell_one(self, rank: int, order: str, *arguments: Any) -> None:
        """The same of one of them."""
        try:
            self._orders[rank - 1].send((order, arguments))
        except OSError:
            raise self.stopped() from None

    def words(self) -> Iterator[tuple[int, Any]]:
        """What each says next: READY, what it was asked, or as text what went wrong there.

        EngineStopped when one is gone.
        """
        for rank, orders in enumerate(self._orders, 1):
            try:
                yield rank, orders.recv()
            except (EOFError, OSError):
                raise self.stopped(f"rank {rank} ended") from None

    def answers(self) -> list[Any]:
        """What each was asked for, in order. EngineStopped when one failed."""
        found = []
        for rank, answer in self.words():
            if isinstance(answer, str):
                self._words[rank] = f": {answer}"
                raise self.stopped(f"rank {rank} failed: {answer}")
            found.append(answer)
        return found

    @contextmanager
    def lockstep(self) -> Iterator[None]:
        """Around what all ranks do together: where it fails here the others wait in sums, so it ends everything."""
        try:
            yield
        except EngineStopped:
            raise
        except Exception as error:
            raise self.stopped(f"the first rank failed: {error!r}") from error

    def stopped(self, why: object = "another rank is gone") -> EngineStopped:
        """The error that a pass ends with; waits a moment for the true reason, which a process's end brings."""
        if self._stopping:
            return EngineStopped(self.failure or "the other ranks have been stopped")
        deadline = time.monotonic() + REASON_SECONDS
        while self.failure is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return EngineStopped(self.failure or str(why))

    def stop(self) -> None:
        """Ends them; again: nothing happens."""
        if self._stopping:
            return
        self._stopping = True
        for orders in self._orders:
            with suppress(OSError):
                orders.send(None)
        self._parting.leave()
        end = time.monotonic() + LEAVE_SECONDS
        for process in self._processes:
            process.join(max(end - time.monotonic(), 0))
            if process.is_alive():
                process.kill()
                process.join()
        if not self._parting.left(LEAVE_SECONDS):
            logger.warning("the other ranks have ended, but their group cannot be left")
        atexit.unregister(self.stop)

    def _watch(self) -> None:
        sentinels = {process.sentinel: rank for rank, process in enumerate(self._processes, 1)}
        rank = sentinels[next(iter(wait(list(sentinels))))]
        if self._stopping:
            return
        process, orders = self._processes[rank - 1], self._orders[rank - 1]
        process.join()
        words = _last_words(orders) or self._words.get(rank, "")
        self.failure = f"rank {rank} died (exit code {process.exitcode}){words}"
        logger.error("%s; the model cannot go on without it", self.failure)
        for other in self._processes:
            other.kill()
        self._parting.abort()
        self.on_failure()
        time.sleep(GRACE_SECONDS)
        if not self._stopping:
            print(f"coderv2: {self.failure}", file=sys.stderr, flush=True)
            os._exit(1)


def _last_words(orders: Connection) -> str:
    """What a rank said before it died, if anything."""
    said = None
    with suppress(EOFError, OSError):
        while orders.poll():
            said = orders.recv()
    return f": {said}" if isinstance(said, str) and said != READY else ""
