"""The life of another rank than the first: it loads its part, then does what the first one tells it, until the end."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tqdm import tqdm

from coderv2.engine.opening import Opening
from coderv2.engine.steps import Given, Steps
from coderv2.errors import CoderV2Error
from coderv2.model.batch import Batch
from coderv2.model.cache import LatentCache
from coderv2.model.config import ModelConfig
from coderv2.model.transformer import Transformer
from coderv2.model.weights import take_values

READY = "ready"
"""What a rank answers when it has loaded."""


class Follower:
    """What another rank does when it is told."""

    def __init__(self, rank: int, opening: Opening, answer: Callable[[Any], object]) -> None:
        self._rank, self._opening, self._answer = rank, opening, answer
        self._model = opening.open(rank)
        self._next: Transformer | None = None
        self._steps: Steps | None = None
        self._forget: Callable[[], object] = lambda: None
        """Lets go of what was recorded."""

    def prepare(self, folder: Path) -> None:
        """Reads new weights and says whether they are sound."""
        try:
            self._next = self._opening.part(self._rank, folder)
        except CoderV2Error as error:
            self._answer(str(error))
        else:
            self._answer(READY)

    def commit(self) -> None:
        """Goes on with what was prepared."""
        if self._next is not None:
            take_values(self._model, self._next)
        self._next = None

    def abandon(self) -> None:
        """Forgets it."""
        self._next = None

    def make_cache(self, config: ModelConfig, pages: int, page_size: int, dtype: torch.dtype) -> None:
        """The same as the first rank's."""
        self._cache = LatentCache(config, pages, page_size, dtype, self._model.device)

    def copy_page(self, source: int, target: int) -> None:
        """As `LatentCache`."""
        self._cache.copy_page(source, target)

    def clear(self, pages: Sequence[int]) -> None:
        """As `LatentCache`."""
        self._cache.clear(pages)

    def move(self, source: Sequence[int], old: range, target: Sequence[int], new: range) -> None:
        """As `LatentCache`."""
        self._cache.move(source, old, target, new)

    def make_steps(self, most: int, pages: int) -> None:
        """As many, over as many pages, as the first rank's."""
        recorder = self._opening.recorder(self._model.device)
        assert recorder is not None, "the first rank records steps, but this device cannot"
        self._steps = Steps(self._model, self._cache, most=most, pages=pages, recorder=recorder)
        self._forget = self._steps.forget

    def start(self, given: Given) -> None:
        """A recorded step; what it says, and when, is the first rank's business."""
        assert self._steps is not None
        self._steps.start(given)

    def leave(self) -> None:
        """Lets recorded steps go, for which a group of NCCL's would wait."""
        self._forget()

    def step(self, *step: Any) -> None:
        """One forward pass; its logits are the first rank's business."""
        new_tokens, contexts, page_tables, wanted = step
        self._model(Batch.cached(self._cache, new_tokens, contexts, page_tables, wanted=wanted))


@torch.inference_mode()
def follow(kind: type[Follower], rank: int, opening: Opening, orders: Connection) -> None:
    """Until it is told to end, or the first rank is gone."""
    # Ctrl-C reaches every process of a terminal; the first rank says when it is over.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # It shows no progress; tqdm's own lock is a semaphore of the system, and would outlive a rank that is killed.
    tqdm.set_lock(threading.RLock())
    threading.Thread(target=_leave_with_the_first, daemon=True).start()
    try:
        follower = kind(rank, opening, orders.send)
        orders.send(READY)
        while (order := orders.recv()) is not None:
            name, arguments = order
            getattr(follower, name)(*arguments)
    except EOFError:
        return
    except BaseException as error:
        with suppress(OSError):
            orders.send(f"{type(error).__name__}: {error}")
        raise
    follower.leave()
    dist.destroy_process_group()


def _leave_with_the_first() -> None:
    """A sum that waits for a process which is gone would wait on."""
    if (first := multiprocessing.parent_process()) is not None:
        wait([first.sentinel])
        os._exit(1)
