"""Other ranks follow the first: processes that each hold a part of the model, and do what the first one does.

The first rank is the process that serves; it tells the others every forward pass and every change of the cache, since
each has the whole latent cache. Then all meet in the sums of `model.parallel`. Decode steps are recorded on each rank,
the sums in them, and repeated by all in the same order; every rank has all logits, bit for bit, and the same rules, so
each draws the same tokens for itself. Nobody can go on without the others:
when a process dies, `failure` says why, waiting sums are broken off, and `on_failure` is called so that a server can
leave; what has not left some seconds later is ended. Nothing waits for ever.
"""

import atexit
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from coderv2 import paths
from coderv2.engine.recording import Recorder, recorder_for
from coderv2.engine.steps import Given, Model, Started, Steps
from coderv2.errors import BadCheckpoint, CoderV2Error, EngineStopped, InvalidValue, Unsupported
from coderv2.kernels.scaled import Kind
from coderv2.log import logger
from coderv2.model.batch import Batch
from coderv2.model.cache import LatentCache
from coderv2.model.config import ModelConfig
from coderv2.model.loading import grain, open_config, open_model
from coderv2.model.parallel import Split, Team
from coderv2.model.transformer import Transformer
from coderv2.model.weights import check_config, take_values

GRACE_SECONDS = 15.0
"""What the first rank gets to leave by itself after another died."""
REASON_SECONDS = 10.0
"""What the true reason may take to be known."""
READY = "ready"

Weights: TypeAlias = Path | str | Mapping[str, Tensor]
"""A checkpoint's folder, or tensors by their published names."""


@dataclass(frozen=True)
class Opening:
    """How a rank comes to its part of the model."""

    folder: Path
    split: Split
    dtype: torch.dtype | None
    device: str
    """cpu, or cuda: then rank r takes the r-th GPU."""
    scaled: Kind | None
    port: int
    follower: "type[Follower]"
    """What another rank does."""
    recorder: Callable[[torch.device], Recorder | None] = recorder_for
    """How a rank records decode steps on its device, if at all."""

    def open(self, rank: int) -> Transformer:
        """Joins the others, which waits for all of them, and loads."""
        if self.device == "cuda":
            torch.cuda.set_device(rank)
        else:
            torch.set_num_threads(max(paths.threads() // self.split.size, 1))
        dist.init_process_group(
            "nccl" if self.device == "cuda" else "gloo",
            init_method=f"tcp://127.0.0.1:{self.port}",
            rank=rank,
            world_size=self.split.size,
            timeout=timedelta(minutes=10),
        )
        return self.part(rank, self.folder)

    def part(self, rank: int, folder: Path) -> Transformer:
        """Its part of a folder's weights."""
        place = f"cuda:{rank}" if self.device == "cuda" else "cpu"
        team = Team(replace(self.split, rank=rank))
        return open_model(
            folder, dtype=self.dtype, device=place, progress=rank == 0, scaled=self.scaled, team=team
        )


class Ranks:
    """The first rank's model, and its word to the others."""

    ATTENTION: ClassVar[Literal["heads", "tokens"]] = "heads"

    def __init__(
        self,
        folder: Path,
        split: Split,
        *,
        dtype: torch.dtype | None = None,
        device: str = "cpu",
        scaled: Kind | None = None,
        on_failure: Callable[[], object] = lambda: None,
        recorder: Callable[[torch.device], Recorder | None] = recorder_for,
    ) -> None:
        """Starts the others and loads all parts. Unsupported or InvalidValue for what cannot be cut or is not there."""
        if split.attention != self.ATTENTION:
            raise Unsupported(f"these ranks cut attention by {self.ATTENTION}, not by {split.attention}")
        split = replace(split, grain=grain(folder))
        _check(open_config(folder), split, device)
        self.failure: str | None = None
        self.on_failure = on_failure
        self._stopping = False
        self._steps: Steps | None = None
        self._words: dict[int, str] = {}
        """What ranks said last, where it was heard while something else was waited for."""
        self._opening = opening = Opening(
            folder, split, dtype, device, scaled, _free_port(), self._follower(), recorder
        )
        self._orders, self._processes = _start(opening)
        threading.Thread(target=self._watch, name="coderv2-ranks", daemon=True).start()
        atexit.register(self.stop)
        try:
            self.model = opening.open(0)
            for rank, orders in enumerate(self._orders, 1):
                if (answer := self._answer(rank, orders)) != READY:
                    raise self.stopped(f"rank {rank} did not start: {answer}")
        except CoderV2Error:
            self.stop()
            raise
        except Exception as error:
            stopped = self.stopped(f"the first rank did not start: {error!r}")
            self.stop()
            raise stopped from error

    @staticmethod
    def _follower() -> "type[Follower]":
        return Follower

    def _answer(self, rank: int, orders: Connection) -> Any:
        """What it says: READY, what went wrong there, or what it was asked. EngineStopped when it is gone."""
        try:
            return orders.recv()
        except (EOFError, OSError):
            raise self.stopped(f"rank {rank} ended") from None

    def answers(self) -> list[Any]:
        """What each other rank was asked for, in order. EngineStopped when one failed."""
        found = []
        for rank, orders in enumerate(self._orders, 1):
            found.append(answer := self._answer(rank, orders))
            if isinstance(answer, str):
                self._words[rank] = f": {answer}"
                raise self.stopped(f"rank {rank} failed: {answer}")
        return found

    def update(self, source: Weights) -> None:
        """New weights on every rank, each its part, once all have read theirs; nothing has changed when it raises.

        The weights are there twice meanwhile. Raises what the first rank found wrong, or BadCheckpoint with what
        another did.
        """
        if isinstance(source, Mapping):
            raise Unsupported(
                "several ranks take new weights from a folder, of which each reads its own part"
            )
        folder = Path(source)
        self.tell("prepare", folder)
        refused: CoderV2Error | None = None
        try:
            check_config(self.model.config, open_config(folder), folder)
            new = self._opening.part(0, folder)
        except CoderV2Error as error:
            refused = error
        answers = [self._answer(rank, orders) for rank, orders in enumerate(self._orders, 1)]
        if refused is None:
            wrong = [answer for answer in answers if answer != READY]
            refused = BadCheckpoint(wrong[0]) if wrong else None
        if refused is not None:
            self.tell("abandon")
            raise refused
        self.tell("commit")
        take_values(self.model, new)

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
        deadline = time.monotonic() + REASON_SECONDS
        while self.failure is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return EngineStopped(self.failure or str(why))

    def cache(
        self, config: ModelConfig, pages: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> "MirroredCache":
        """A cache on every rank."""
        self.tell("make_cache", config, pages, page_size, dtype)
        return MirroredCache(self, config, pages, page_size, dtype, device)

    @property
    def size(self) -> int:
        """How many there are."""
        return self._opening.split.size

    def recorder(self) -> Recorder | None:
        """How the first rank records decode steps; the others do it the same way."""
        return self._opening.recorder(self.model.device)

    def steps(
        self, model: Model, cache: LatentCache, *, most: int, pages: int, recorder: Recorder
    ) -> "MirroredSteps":
        """Decode steps that every rank records and repeats, over the caches that are there."""
        self.tell("make_steps", most, pages)
        steps = MirroredSteps(self, model, cache, most=most, pages=pages, recorder=recorder)
        self._steps = steps
        return steps

    def stop(self) -> None:
        """Ends the others; again: nothing happens."""
        if self._stopping:
            return
        self._stopping = True
        if self._steps is not None:
            self._steps.forget()  # NCCL waits for graphs that hold its sums before it lets a group go
        for orders in self._orders:
            with suppress(OSError):
                orders.send(None)
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
        if dist.is_initialized():
            dist.destroy_process_group()
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
        if (group := dist.group.WORLD) is not None and dist.get_backend() == "nccl":
            group.abort()  # a sum on a GPU waits on, whoever is gone
        self.on_failure()
        time.sleep(GRACE_SECONDS)
        if not self._stopping:
            print(f"coderv2: {self.failure}", file=sys.stderr, flush=True)
            os._exit(1)


class MirroredCache(LatentCache):
    """A cache whose every change outside a forward pass is made on all ranks."""

    def __init__(self, ranks: Ranks, *shape: Any) -> None:
        super().__init__(*shape)
        self._ranks = ranks

    def copy_page(self, source: int, target: int) -> None:
        """Everywhere."""
        self._ranks.tell("copy_page", source, target)
        super().copy_page(source, target)

    def clear(self, pages: Sequence[int]) -> None:
        """Everywhere."""
        self._ranks.tell("clear", list(pages))
        super().clear(pages)

    def move(self, source: Sequence[int], old: range, target: Sequence[int], new: range) -> None:
        """Everywhere."""
        self._ranks.tell("move", list(source), old, list(target), new)
        super().move(source, old, target, new)


class MirroredSteps(Steps):
    """Steps that are started on all ranks, in the same order."""

    def __init__(self, ranks: Ranks, *parts: Any, **sizes: Any) -> None:
        super().__init__(*parts, **sizes)
        self._ranks = ranks

    def start(self, given: Given) -> Started:
        """Everywhere."""
        self._ranks.tell("start", given)
        return super().start(given)


class Follower:
    """What another rank does when it is told."""

    def __init__(self, rank: int, opening: Opening, answer: Callable[[Any], object]) -> None:
        self._rank, self._opening, self._answer = rank, opening, answer
        self._model = opening.open(rank)
        self._next: Transformer | None = None
        self._steps: Steps | None = None

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

    def start(self, given: Given) -> None:
        """A recorded step; what it says, and when, is the first rank's business."""
        assert self._steps is not None
        self._steps.start(given)

    def leave(self) -> None:
        """Lets recorded steps go, for which a group of NCCL's would wait."""
        if self._steps is not None:
            self._steps.forget()

    def step(self, *step: Any) -> None:
        """One forward pass; its logits are the first rank's business."""
        new_tokens, contexts, page_tables, wanted = step
        self._model(Batch.cached(self._cache, new_tokens, contexts, page_tables, wanted=wanted))


@torch.inference_mode()
def follow(rank: int, opening: Opening, orders: Connection) -> None:
    """The life of another rank: until it is told to end, or the first rank is gone."""
    # Ctrl-C reaches every process of a terminal; the first rank says when it is over.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # It shows no progress; tqdm's own lock is a semaphore of the system, and would outlive a rank that is killed.
    tqdm.set_lock(threading.RLock())
    threading.Thread(target=_leave_with_the_first, daemon=True).start()
    try:
        follower = opening.follower(rank, opening, orders.send)
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


def _start(opening: Opening) -> tuple[list[Connection], list[Any]]:
    context = multiprocessing.get_context("spawn")
    orders, processes = [], []
    for rank in range(1, opening.split.size):
        ours, theirs = context.Pipe()
        process = context.Process(
            target=follow, args=(rank, opening, theirs), name=f"coderv2-rank-{rank}", daemon=True
        )
        process.start()
        theirs.close()
        orders.append(ours)
        processes.append(process)
    return orders, processes


def _check(config: ModelConfig, split: Split, device: str) -> None:
    split.local(config)
    split.stack(config)
    if device == "cuda" and torch.cuda.device_count() < split.size:
        raise InvalidValue(
            f"{split.size} ranks need as many GPUs; here are {torch.cuda.device_count()}",
            param="tensor_parallel_size",
        )


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _last_words(orders: Connection) -> str:
    """What a rank said before it died, if anything."""
    said = None
    with suppress(EOFError, OSError):
        while orders.poll():
            said = orders.recv()
    return f": {said}" if isinstance(said, str) and said != READY else ""
