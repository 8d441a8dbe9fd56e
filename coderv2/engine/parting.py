"""How a rank leaves the others: in a thread of its own, since that may wait for them, and for ever.

NCCL's groups are left by all together; where a process is gone, or hangs, nobody comes.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue

import torch.distributed as dist

from coderv2.log import logger


class Parting:
    """Says what is to be done, and waits only where asked to."""

    def __init__(self) -> None:
        # Started now, since none can be once Python ends.
        self._thread = threading.Thread(target=self._run, name="coderv2-parting", daemon=True)
        self._tasks: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread.start()

    def abort(self) -> None:
        """Breaks off sums that a GPU waits in, whoever is gone."""
        self._tasks.put(_abort)

    def leave(self) -> None:
        """Leaves the group; the last that is done."""
        self._tasks.put(_leave)
        self._tasks.put(None)

    def left(self, seconds: float) -> bool:
        """True when it has been left, for which it waits so long."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except Exception as error:  # whatever a broken connection may raise
                logger.warning("leaving the other ranks: %r", error)


def _abort() -> None:
    if (group := dist.group.WORLD) is not None and dist.get_backend() == "nccl":
        group.abort()


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
