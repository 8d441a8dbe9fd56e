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

GIVEN = -1
"""Source of a token that the host has written."""


class Model(Protocol):
    """What a step runs."""

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
class Buffers:
    """What changes from step to step, for the largest number of sequences: on the device, or on the way there."""

    numbers_5B: Tensor
    rules_5B: Tensor
    table_BP: Tensor
    said_2B: Tensor
    """int64, what the step said last: each row's token, and whether all its logits are finite."""

    @classmethod
    def empty(cls, B: int, pages: int, device: torch.device, *, pinned: bool = False) -> "Buffers":
        """Zeros; `pinned` memory copies without the host waiting."""
        shapes = (
            ((5, B), torch.int64), ((5, B), torch.float64), ((B, pages), torch.int32), ((2, B), torch.int64)
        )  # fmt: skip
        return cls(*(torch.zeros(s, dtype=d, device=device, pin_memory=pinned) for s, d in shapes))

    def write(self, given: Given) -> None:
        """The host's word, into the host's memory."""
        B, pages = given.table_BP.shape
        self.numbers_5B[:, :B] = torch.from_numpy(given.numbers_5B)
        self.rules_5B[:, :B] = torch.from_numpy(given.rules_5B)
        self.table_BP[:B, :pages] = torch.from_numpy(given.table_BP)

    def take(self, other: "Buffers", B: int, pages: int) -> None:
        """The first B sequences' values, without waiting."""
        self.numbers_5B[:, :B].copy_(other.numbers_5B[:, :B], non_blocking=True)
        self.rules_5B[:, :B].copy_(other.rules_5B[:, :B], non_blocking=True)
        self.table_BP[:B, :pages].copy_(other.table_BP[:B, :pages], non_blocking=True)


class Step:
    """A decode step of B sequences over buffers, and as many on every other rank."""

    def __init__(
        self,
        model: Model,
        cache: LatentCache,
        buffers: Buffers,
        B: int,
        draws: Draws = Draws.NOTHING,
        ranks: int = 1,
    ) -> None:
        self._model, self._cache, self._B, self._draws = model, cache, B, draws
        self._counts = (B,) * ranks
        self._numbers_5B, self._rules_5B = buffers.numbers_5B[:, :B], buffers.rules_5B[:, :B]
        self._table_BP, self._said_2B = buffers.table_BP[:B], buffers.said_2B
        self._starts_B1 = torch.arange(B + 1, dtype=torch.int32, device=model.device)

    def __call__(self) -> Tensor:
        """One pass: logits [B, W], and what it says in the buffers."""
        logits_BW = self._model(self._batch())
        token_B, finite_B = drawing.peaks(logits_BW)
        if self._draws:
            token_B = self._drawn(logits_BW, token_B)
        self._said_2B[:, : self._B].copy_(torch.stack((token_B, finite_B.long())))
        return logits_BW

    def _drawn(self, logits_BW: Tensor, likeliest_B: Tensor) -> Tensor:
        cuts = self._draws is Draws.HEAVIEST
        drawn_B = drawing.drawn(logits_BW, likeliest_B, self._rules_5B, cuts=cuts)
        return torch.where(self._rules_5B[0] > 0, drawn_B, likeliest_B)

    def _batch(self) -> Batch:
        given_B, position_B, slot_B, length_B, source_B = self._numbers_5B
        B = self._B
        said_B = self._said_2B[0][source_B.clamp(min=0)]
        batch = Batch(
            token_ids_T=torch.where(source_B == GIVEN, given_B, said_B),
            positions_T=position_B,
            starts=tuple(range(B + 1)),
            contexts=(0,) * B,
            cache=self._cache,
            page_tables=self._table_BP.unbind(),
            slots_T=slot_B,
            counts=self._counts,
        )
        spans = batch.ops.spans_over(self._starts_B1, length_B.int(), self._table_BP, 1)
        return batch.over(spans)


@dataclass
class Started:
    """A step that the device has been given."""

    half: int
    """Which of the host's two buffers it uses."""
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
        self._model, self._cache, self._record, self._pages = model, cache, recorder, pages
        self._rank_count = ranks
        self._device = Buffers.empty(most, pages, model.device)
        pinned = model.device.type == "cuda"
        # Two: while the copy of one step's is still to be made, the next one's are written.
        self._host = [Buffers.empty(most, pages, torch.device("cpu"), pinned=pinned) for _ in range(2)]
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
        started, host = Started(self._half), self._host[self._half]
        self._busy[self._half]()
        host.write(given)
        B, pages = given.table_BP.shape

        def work() -> None:
            self._device.take(host, B, pages)
            started.logits_BW = self._step(B, given.draws)()
            host.said_2B[:, :B].copy_(self._device.said_2B[:, :B], non_blocking=True)

        self._record.stream.enqueue(work)
        started.arrived = self._busy[self._half] = _once(self._record.stream.mark())
        return started

    def forget(self) -> None:
        """Lets all that was recorded go."""
        self._recorded.clear()

    def said(self, started: Started) -> Tensor:
        """Tokens, and whether the logits are finite, of a step that has arrived, [2, B]."""
        return self._host[started.half].said_2B

    def _step(self, B: int, draws: Draws) -> Recorded:
        if not self.known(B, draws):
            step = Step(self._model, self._cache, self._device, B, draws, self._rank_count)
            self._recorded[B, draws] = self._record(step)
        return self._recorded[B, draws]


def _once(wait: Callable[[], None]) -> Callable[[], None]:
    """Waits when it is first called."""
    waits = [wait]

    def waited() -> None:
        if waits:
            waits.pop()()

    return waited
