"""Decode steps as recorded graphs: one token for each of a padded number of sequences, the likeliest next included.

On a GPU a decode step is a few hundred short kernels, and starting them one by one takes longer than they do. A CUDA
graph starts them all at once, but only the same ones over the same memory. So each padded number of sequences has its
graph, and all that changes from step to step stands in buffers that stay where they are: tokens, places, page tables.
Rows that only fill up read and write a page that belongs to nobody.

Nothing inside a step asks what a number is, and between two steps the device does not wait for the host either: where
all sequences take the likeliest token, the next step is started, from the tokens that lie on the device, before the
host looks at this one's. A step that nobody wanted after all, since an answer ended or others came in, is dropped: what
it wrote lies beyond what any sequence has, and later work overwrites it. Requests that draw, or change logits first, go
on from the logits as after any pass.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from coderv2.engine.recording import Recorder
from coderv2.engine.recording import Step as Recorded
from coderv2.engine.request import Request
from coderv2.engine.sampler import Peaks, takes_likeliest
from coderv2.engine.scheduler import Chunk
from coderv2.kernels import drawing
from coderv2.model.batch import Batch
from coderv2.model.cache import LatentCache

_GIVEN = -1
"""Source of a token that the host has written."""


class Model(Protocol):
    """What a step runs."""

    @property
    def device(self) -> torch.device:
        """Where the buffers lie."""

    def __call__(self, batch: Batch, /) -> Tensor:
        """Float32 logits."""


def padded_sizes(most: int) -> list[int]:
    """Numbers of sequences that get a graph: few, and none much larger than the next smaller."""
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, most + 32, 32)]
    return [*(size for size in sizes if size < most), most]


@dataclass(frozen=True)
class Buffers:
    """What changes from step to step, for the largest number of sequences: on the device, or on the way there."""

    numbers: Tensor
    """int64 [5, B]: token, position, slot, length, source: the row of the step before whose token is this one's."""
    table_BP: Tensor
    """int32."""
    said: Tensor
    """int64 [2, B]: what the step said last: each row's likeliest token, and whether all its logits are finite."""

    @classmethod
    def empty(cls, B: int, pages: int, device: torch.device, *, pinned: bool = False) -> "Buffers":
        """Zeros; `pinned` memory copies without the host waiting."""
        shapes = (((5, B), torch.int64), ((B, pages), torch.int32), ((2, B), torch.int64))
        return cls(*(torch.zeros(s, dtype=d, device=device, pin_memory=pinned) for s, d in shapes))

    def take(self, other: "Buffers", B: int, pages: int) -> None:
        """The first B sequences' values, without waiting."""
        self.numbers[:, :B].copy_(other.numbers[:, :B], non_blocking=True)
        self.table_BP[:B, :pages].copy_(other.table_BP[:B, :pages], non_blocking=True)


class Step:
    """A decode step of B sequences over buffers."""

    def __init__(self, model: Model, cache: LatentCache, buffers: Buffers, B: int, pages: int) -> None:
        self._model, self._cache, self._B = model, cache, B
        self._numbers, self._said = buffers.numbers[:, :B], buffers.said
        self._table_BP = buffers.table_BP[:B, :pages]
        self._starts_B1 = torch.arange(B + 1, dtype=torch.int32, device=model.device)

    def __call__(self) -> Tensor:
        """One pass: logits [B, W], and what it says in the buffers."""
        logits_BW = self._model(self._batch())
        likeliest_B, finite_B = drawing.peaks(logits_BW)
        self._said[:, : self._B].copy_(torch.stack((likeliest_B, finite_B.long())))
        return logits_BW

    def _batch(self) -> Batch:
        given_B, position_B, slot_B, length_B, source_B = self._numbers
        B = self._B
        said_B = self._said[0][source_B.clamp(min=0)]
        batch = Batch(
            token_ids_T=torch.where(source_B == _GIVEN, given_B, said_B),
            positions_T=position_B,
            starts=tuple(range(B + 1)),
            contexts=(0,) * B,
            cache=self._cache,
            page_tables=self._table_BP.unbind(),
            slots_T=slot_B,
        )
        spans = batch.ops.spans_over(self._starts_B1, length_B.int(), self._table_BP, 1)
        return batch.over(spans)


@dataclass(frozen=True)
class Row:
    """One sequence in a step."""

    request: Request
    token: int
    context: int
    pages: tuple[int, ...]
    source: int = _GIVEN

    @classmethod
    def of(cls, chunk: Chunk) -> "Row":
        """Its token is known."""
        return cls(chunk.request, chunk.token_ids[0], chunk.context, tuple(chunk.request.pages))

    def next(self, source: int) -> "Row":
        """One place further, with the token that row `source` of the step before will say."""
        return Row(self.request, 0, self.context + 1, tuple(self.request.pages), source)

    def is_for(self, chunk: Chunk) -> bool:
        """True where the chunk wants just this."""
        pages = chunk.request.pages[: len(self.pages)]
        return self.request is chunk.request and self.context == chunk.context and self.pages == tuple(pages)

    def numbers(self, page_size: int) -> tuple[int, ...]:
        """As they stand in the buffers."""
        place = self.context
        slot = self.pages[place // page_size] * page_size + place % page_size
        return self.token, place, slot, place + 1, self.source


@dataclass
class Flight:
    """A step that was started, until the host has looked at it."""

    rows: list[Row]
    half: int
    """Which of the host's two buffers it uses."""
    arrived: Callable[[], None] = lambda: None
    logits_BW: Tensor | None = None

    def places(self, chunks: Sequence[Chunk]) -> list[int] | None:
        """The rows that these chunks want; None where it is not the step for them."""
        by_request = {id(row.request): place for place, row in enumerate(self.rows)}
        found = [by_request.get(id(chunk.request)) for chunk in chunks]
        places = [place for place in found if place is not None]
        alike = len(places) == len(chunks) and all(
            self.rows[place].is_for(chunk) for place, chunk in zip(places, chunks, strict=True)
        )
        return places if alike else None


class DecodeGraphs:
    """The graphs of one engine, each recorded when it is first wanted."""

    def __init__(
        self,
        model: Model,
        cache: LatentCache,
        *,
        most: int,
        pages: int,
        nobody: int,
        recorder: Recorder,
        grow: Callable[[Request, int], bool],
    ) -> None:
        """For up to `most` sequences of up to `pages` pages; the cache's page `nobody` is given to no request.

        `grow` gives a request pages for so many tokens, or says that there are none without taking another's.
        """
        self._model, self._cache, self._record, self._grow = model, cache, recorder, grow
        self._pages, self._nobody = pages, nobody
        self._sizes = padded_sizes(most)
        self._device = Buffers.empty(most, pages, model.device)
        pinned = model.device.type == "cuda"
        # Two: while the copy of one step's is still to be made, the next one's are written.
        self._host = [Buffers.empty(most, pages, torch.device("cpu"), pinned=pinned) for _ in range(2)]
        self._steps: dict[int, Recorded] = {}
        self._ahead: Flight | None = None
        self._half = 0
        self._busy: list[Callable[[], None]] = [lambda: None] * 2
        """Of each half of the host's buffers what waits until the device has done with it."""

    def takes(self, chunks: Sequence[Chunk]) -> bool:
        """True for a step that decodes: one token and one row of logits of each sequence."""
        plain = all(len(chunk.token_ids) == 1 and not chunk.draft for chunk in chunks)
        return plain and len(chunks) <= self._sizes[-1]

    def run(self, chunks: Sequence[Chunk]) -> tuple[Tensor, Peaks]:
        """Logits [R, W] and their peaks; where all rows take these, the logits may be the next step's already."""
        flight, self._ahead = self._ahead, None
        places = None if flight is None else flight.places(chunks)
        if flight is None or places is None:
            flight, places = self._start([Row.of(chunk) for chunk in chunks]), list(range(len(chunks)))
        self._ahead = self._follow(flight, places)
        flight.arrived()
        likeliest, finite = self._host[flight.half].said[:, places].tolist()
        assert flight.logits_BW is not None
        logits_RW = (
            flight.logits_BW[: len(places)]
            if places == list(range(len(places)))
            else flight.logits_BW[places]
        )
        return logits_RW, (likeliest, [bool(flag) for flag in finite])

    def drop(self) -> None:
        """Forgets a step that was started ahead: the weights, or who runs, are no longer what they were."""
        self._ahead = None

    def _follow(self, flight: Flight, places: Sequence[int]) -> Flight | None:
        """The step after `flight` of the same sequences, started now; None where that cannot be."""
        rows = [(place, flight.rows[place]) for place in places]
        if not all(takes_likeliest(row.request) for _, row in rows):
            return None  # somebody needs this step's logits, which the next would write over
        going = [(place, row) for place, row in rows if row.request.answer_count + 1 < row.request.limit]
        if not going or self._padded(len(going)) not in self._steps:
            return None
        if not all(self._grow(row.request, row.context + 2) for _, row in going):
            return None
        return self._start([row.next(place) for place, row in going])

    def _start(self, rows: list[Row]) -> Flight:
        """Gives the device all it needs for a step, and does not wait for it."""
        B, self._half = self._padded(len(rows)), 1 - self._half
        flight = Flight(rows, self._half)
        host = self._host[flight.half]
        self._busy[flight.half]()
        used = self._write(host, rows, B)

        def work() -> None:
            self._device.take(host, B, used)
            if B not in self._steps:
                self._steps[B] = self._record(Step(self._model, self._cache, self._device, B, self._pages))
            flight.logits_BW = self._steps[B]()
            host.said[:, :B].copy_(self._device.said[:, :B], non_blocking=True)

        self._record.stream.enqueue(work)
        flight.arrived = self._busy[flight.half] = _once(self._record.stream.mark())
        return flight

    def _padded(self, count: int) -> int:
        return self._sizes[bisect_left(self._sizes, count)]

    def _write(self, host: Buffers, rows: Sequence[Row], B: int) -> int:
        """Fills the host's buffers; the pages of the longest table."""
        size, spare = self._cache.page_size, B - len(rows)
        filler = (0, 0, self._nobody * size, 1, _GIVEN)
        host.numbers[:, :B] = torch.tensor([*(row.numbers(size) for row in rows), *[filler] * spare]).T
        used = max(len(row.pages) for row in rows)
        filled = [[*row.pages, *[self._nobody] * (used - len(row.pages))] for row in rows]
        host.table_BP[:B, :used] = torch.tensor(filled + [[self._nobody] * used] * spare, dtype=torch.int32)
        return used


def _once(wait: Callable[[], None]) -> Callable[[], None]:
    """Waits when it is first called."""
    waits = [wait]

    def waited() -> None:
        if waits:
            waits.pop()()

    return waited
