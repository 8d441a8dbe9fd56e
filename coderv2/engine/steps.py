"""Decode steps of one device, recorded: a token for each of a padded number of sequences, its choice included.

A CUDA graph starts a step's few hundred short kernels at once, but only the same ones over the same memory. So all that
changes from step to step stands in buffers that stay where they are: tokens, places, page tables, and by which rule
each row's token is chosen. Nothing inside a step asks what a number is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coderv2.engine.recording import Recorder
from coderv2.engine.recording import Step as Recorded
from coderv2.kernels import drawing
from coderv2.model.batch import Batch
from coderv2.model.cache import LatentCache
from coderv2.model.config import ModelConfig

GIVEN = -1
"""Source of a token that the host has written."""


class Model(Protocol):
    """What a step runs."""

    @property
    def config(self) -> ModelConfig:
        """Its shapes."""

    @property
    def device(self) -> torch.device:
        """Where the buffers lie."""

    def __call__(self, batch: Batch, /) -> Tensor:
        """Float32 logits."""


class Draws(IntEnum):
    """The most that a row of a step asks of its draw; who asks for less has it in the same step."""

    NOTHING = 0
    """All take the likeliest token."""
    ANY = 1
    """From the whole vocabulary."""
    HEAVIEST = 2
    """From what top_k, top_p or min_p leave: the vocabulary is sorted."""


@dataclass(frozen=True)
class Given:
    """What the host says about a step of B sequences."""

    numbers_5B: NDArray[np.int64]
    """Token, position, slot, length, source: the row of the step before whose token is this one's, or GIVEN."""
    rules_5B: NDArray[np.float64]
    """As `drawing.Rule`; temperature 0 takes the likeliest token."""
    table_BP: NDArray[np.int32]
    """P as the longest sequence needs."""
    draws: Draws


@dataclass(frozen=True)
class Part:
    """What a step of B sequences reads and says."""

    numbers_5B: Tensor
    rules_5B: Tensor
    table_PB: Tensor
    said_2B: Tensor
    """int64: each row's token, and whether all its logits are finite."""

    def write(self, given: Given) -> None:
        """The host's word, into the host's memory."""
        self.numbers_5B.copy_(torch.from_numpy(given.numbers_5B))
        self.rules_5B.copy_(torch.from_numpy(given.rules_5B))
        self.table_PB.copy_(torch.from_numpy(given.table_BP.T))

    def take(self, other: "Part") -> None:
        """The host's word, without waiting."""
        for mine, theirs in (
            (self.numbers_5B, other.numbers_5B),
            (self.rules_5B, other.rules_5B),
            (self.table_PB, other.table_PB),
        ):
            mine.copy_(theirs, non_blocking=True)


class Buffers:
    """What changes from step to step, for the largest number of sequences: on the device, or on the way there.

    Each is the beginning of a block that is laid out for the step's B sequences, so that what is copied has no gaps:
    PyTorch takes others through memory of its own, which is not page-locked, and the host waits.
    """

    def __init__(self, most: int, pages: int, device: torch.device, *, pinned: bool = False) -> None:
        """Zeros; `pinned` memory copies without the host waiting."""
        self.most, self.pages = most, pages
        types = torch.int64, torch.float64, torch.int32, torch.int64
        self._blocks = [
            torch.zeros(rows * most, dtype=dtype, device=device, pin_memory=pinned)
            for rows, dtype in zip(self._rows(pages), types, strict=True)
        ]

    @property
    def said(self) -> Tensor:
        """What the step said last, however many sequences it had: their tokens come first."""
        return self._blocks[-1]

    def part(self, B: int, pages: int | None = None) -> Part:
        """For B sequences of up to so many pages, by default as many as there are at the most."""
        rows = self._rows(self.pages if pages is None else pages)
        return Part(*(block[: n * B].view(n, B) for n, block in zip(rows, self._blocks, strict=True)))

    @staticmethod
    def _rows(pages: int) -> tuple[int, int, int, int]:
        return 5, 5, pages, 2


class Step:
    """A decode step of B sequences over buffers, and as many on every other rank."""

    def __init__(
        self,
        model: Model,
        cache: LatentCache,
        buffers: Buffers,
        logits_BW: Tensor,
        draws: Draws = Draws.NOTHING,
        ranks: int = 1,
    ) -> None:
        """B as there are rows for the logits."""
        self._model, self._cache, self._draws = model, cache, draws
        self._logits_BW = logits_BW
        self._B = B = logits_BW.shape[0]
        self._counts = (B,) * ranks
        self._part, self._said_before = buffers.part(B), buffers.said
        self._starts_B1 = torch.arange(B + 1, dtype=torch.int32, device=model.device)

    def __call__(self) -> Tensor:
        """One pass: logits [B, W], and what it says in the buffers."""
        logits_BW = self._logits_BW.copy_(self._model(self._batch()))
        token_B, finite_B = drawing.peaks(logits_BW)
        if self._draws:
            token_B = self._drawn(logits_BW, token_B)
        self._part.said_2B.copy_(torch.stack((token_B, finite_B.long())))
        return logits_BW

    def _drawn(self, logits_BW: Tensor, likeliest_B: Tensor) -> Tensor:
        cuts, rules_5B = self._draws is Draws.HEAVIEST, self._part.rules_5B
        drawn_B = drawing.drawn(logits_BW, likeliest_B, rules_5B, cuts=cuts)
        return torch.where(rules_5B[0] > 0, drawn_B, likeliest_B)

    def _batch(self) -> Batch:
        given_B, position_B, slot_B, length_B, source_B = self._part.numbers_5B
        B, table_BP = self._B, self._part.table_PB.T
        said_B = self._said_before[source_B.clamp(min=0)]
        batch = Batch(
            token_ids_T=torch.where(source_B == GIVEN, given_B, said_B),
            positions_T=position_B,
            starts=tuple(range(B + 1)),
            contexts=(0,) * B,
            cache=self._cache,
            page_tables=table_BP.unbind(),
            slots_T=slot_B,
            counts=self._counts,
        )
        return batch.over(batch.ops.spans_over(self._starts_B1, length_B.int(), table_BP, 1))


@dataclass
class Started:
    """A step that the device has been given."""

    host: Part
    """Of the host's buffers what it uses."""
    arrived: Callable[[], None] = lambda: None
    """Waits until it is done."""
    logits_BW: Tensor | None = None
    """There when it has arrived; the next step may write over them."""


class Steps:
    """The steps of one device, each recorded when it is first wanted."""

    def __init__(
        self,
        model: Model,
        cache: LatentCache,
        *,
        most: int,
        pages: int,
        recorder: Recorder,
        ranks: int = 1,
    ) -> None:
        """For up to `most` sequences of up to `pages` pages; `ranks` that have sequences of their own step together."""
        self._model, self._cache, self._record = model, cache, recorder
        self._rank_count = ranks
        self._device = Buffers(most, pages, model.device)
        # One for all: steps that each kept their own would take gigabytes.
        self._logits_BW = torch.empty(most, model.config.vocab_size, device=model.device)
        pinned = model.device.type == "cuda"
        # Two: while the copy of one step's is still to be made, the next one's are written.
        self._host = [Buffers(most, pages, torch.device("cpu"), pinned=pinned) for _ in range(2)]
        self._recorded: dict[tuple[int, Draws], Recorded] = {}
        self._half = 0
        self._busy: list[Callable[[], None]] = [lambda: None] * 2
        """Of each half of the host's buffers what waits until the device has done with it."""

    def known(self, B: int, draws: Draws) -> bool:
        """True where such a step has been recorded."""
        return (B, draws) in self._recorded

    def start(self, given: Given) -> Started:
        """Gives the device all it needs for a step, and does not wait for it."""
        self._half = 1 - self._half
        B, pages = given.table_BP.shape
        host, device = (one.part(B, pages) for one in (self._host[self._half], self._device))
        started = Started(host)
        self._busy[self._half]()
        host.write(given)

        def work() -> None:
            device.take(host)
            started.logits_BW = self._step(B, given.draws)()
            host.said_2B.copy_(device.said_2B, non_blocking=True)

        self._record.stream.enqueue(work)
        started.arrived = self._busy[self._half] = _once(self._record.stream.mark())
        return started

    def forget(self) -> None:
        """Lets all that was recorded go."""
        self._recorded.clear()

    def said(self, started: Started) -> Tensor:
        """Tokens, and whether the logits are finite, of a step that has arrived, [2, B]."""
        return started.host.said_2B

    def _step(self, B: int, draws: Draws) -> Recorded:
        if not self.known(B, draws):
            logits_BW = self._logits_BW[:B]
            step = Step(self._model, self._cache, self._device, logits_BW, draws, self._rank_count)
            self._recorded[B, draws] = self._record(step)
        return self._recorded[B, draws]


def _once(wait: Callable[[], None]) -> Callable[[], None]:
    """Waits when it is first called."""
    waits = [wait]

    def waited() -> None:
        if waits:
            waits.pop()()

    return waited
