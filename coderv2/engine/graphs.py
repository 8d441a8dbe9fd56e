"""Decode steps one ahead of the host: which sequences the next recorded step has, and whether it was the right one.

Starting the kernels of a decode step one by one takes longer than they do, so steps are recorded (`steps`), for a few
padded numbers of sequences; rows that only fill up read and write a page that belongs to nobody.

Between two steps the device does not wait for the host: where nobody needs more of a step than its tokens, likeliest
or drawn, the next is started, from the tokens that lie on the device, before the host looks at this one's. A step that
nobody wanted after all, since an answer ended or others came in, is dropped: what it wrote lies beyond what any
sequence has, and later work overwrites it. Requests that change logits first, or ask for them, go on as after any pass.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from coderv2.engine.request import Request
from coderv2.engine.sampler import GREEDY, Said, needs_logits, rule_in_step
from coderv2.engine.scheduler import Chunk
from coderv2.engine.steps import GIVEN, Draws, Given, Started, Steps
from coderv2.kernels.drawing import Rule


def padded_sizes(most: int) -> list[int]:
    """Numbers of sequences that get a graph: few, and none much larger than the next smaller."""
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, most + 32, 32)]
    return [*(size for size in sizes if size < most), most]


@dataclass(frozen=True)
class Row:
    """One sequence in a step."""

    request: Request
    token: int
    context: int
    pages: tuple[int, ...]
    rule: Rule
    source: int = GIVEN

    @classmethod
    def of(cls, chunk: Chunk) -> "Row":
        """Its token is known."""
        request = chunk.request
        rule = rule_in_step(request, request.answer_count) if chunk.completes else GREEDY
        return cls(request, chunk.token_ids[0], chunk.context, tuple(request.pages), rule)

    def next(self, source: int) -> "Row":
        """One place further, with the token that row `source` of the step before will say."""
        request = self.request
        rule = rule_in_step(request, request.answer_count + 1)
        return Row(request, 0, self.context + 1, tuple(request.pages), rule, source)

    def is_for(self, chunk: Chunk) -> bool:
        """True where the chunk wants just this."""
        pages = chunk.request.pages[: len(self.pages)]
        return self.request is chunk.request and self.context == chunk.context and self.pages == tuple(pages)

    def numbers(self, page_size: int) -> tuple[int, ...]:
        """As they stand in the buffers."""
        place = self.context
        slot = self.pages[place // page_size] * page_size + place % page_size
        return self.token, place, slot, place + 1, self.source


@dataclass(frozen=True)
class Flight:
    """A step that was started, until the host has looked at it."""

    rows: list[Row]
    started: Started

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
    """Decode steps of one engine, one ahead."""

    def __init__(
        self,
        steps: Steps,
        *,
        most: int,
        page_size: int,
        nobody: int,
        grow: Callable[[Request, int], bool],
    ) -> None:
        """For up to `most` sequences; the cache's page `nobody` is given to no request.

        `grow` gives a request pages for so many tokens, or says that there are none without taking another's.
        """
        self._steps, self._page_size, self._nobody, self._grow = steps, page_size, nobody, grow
        self._sizes = padded_sizes(most)
        self._ahead: Flight | None = None

    def takes(self, chunks: Sequence[Chunk]) -> bool:
        """True for a step that decodes: one token and one row of logits of each sequence."""
        plain = all(len(chunk.token_ids) == 1 and not chunk.draft for chunk in chunks)
        return plain and len(chunks) <= self._sizes[-1]

    def run(self, chunks: Sequence[Chunk]) -> tuple[Tensor, Said]:
        """Logits [R, W] and the tokens chosen; where nobody needs the logits they may be the next step's already."""
        flight, self._ahead = self._ahead, None
        places = None if flight is None else flight.places(chunks)
        if flight is None or places is None:
            flight, places = self._start([Row.of(chunk) for chunk in chunks]), list(range(len(chunks)))
        self._ahead = self._follow(places, chunks)
        flight.started.arrived()
        tokens, finite = self._steps.said(flight.started)[:, places].tolist()
        logits_BW = flight.started.logits_BW
        assert logits_BW is not None
        # Rows are picked only for somebody who needs them: their numbers go to the device, and the host would wait.
        as_they_are = self._ahead is not None or places == list(range(len(places)))
        logits_RW = logits_BW[: len(places)] if as_they_are else logits_BW[places]
        return logits_RW, (tokens, [bool(flag) for flag in finite])

    def drop(self) -> None:
        """Forgets a step that was started ahead: the weights, or who runs, are no longer what they were."""
        self._ahead = None

    def forget(self) -> None:
        """Lets all that was recorded go."""
        self.drop()
        self._steps.forget()

    def _follow(self, places: Sequence[int], chunks: Sequence[Chunk]) -> Flight | None:
        """The step after that of these chunks, which stand in its rows `places`, started now; None: that cannot be."""
        rows = self._next(places, chunks)
        if not rows or not self._steps.known(*self._form(rows)):
            return None
        return self._start(rows)

    def _next(self, places: Sequence[int], chunks: Sequence[Chunk]) -> list[Row] | None:
        """The sequences that go on, a place further and with pages for it; None where nobody can say yet."""
        # A prompt's token is not followed by what the step says, and its logits may be wanted.
        if not all(chunk.completes and not needs_logits(chunk.request) for chunk in chunks):
            return None  # the next step would write over logits that somebody needs
        rows = [(place, Row.of(chunk)) for place, chunk in zip(places, chunks, strict=True)]
        going = [(place, row) for place, row in rows if row.request.answer_count + 1 < row.request.limit]
        if not all(self._grow(row.request, row.context + 2) for _, row in going):
            return None
        return [row.next(place) for place, row in going]

    def _start(self, rows: list[Row]) -> Flight:
        return Flight(rows, self._steps.start(self._given(rows)))

    def _form(self, rows: Sequence[Row]) -> tuple[int, Draws]:
        """Which recorded step takes these: its sequences, and the most that one asks of its draw."""
        return self._sizes[bisect_left(self._sizes, len(rows))], _draws(rows)

    def _given(self, rows: Sequence[Row]) -> Given:
        """Rows and what fills them up as arrays; the pages of the longest table."""
        B, draws = self._form(rows)
        size, spare = self._page_size, B - len(rows)
        filler = (0, 0, self._nobody * size, 1, GIVEN)
        used = max((len(row.pages) for row in rows), default=1)
        filled = [[*row.pages, *[self._nobody] * (used - len(row.pages))] for row in rows]
        return Given(
            np.array([*(row.numbers(size) for row in rows), *[filler] * spare], np.int64).T,
            np.array([*(row.rule for row in rows), *[GREEDY] * spare], np.float64).T,
            np.array(filled + [[self._nobody] * used] * spare, np.int32),
            draws,
        )


def _draws(rows: Sequence[Row]) -> Draws:
    drawing = [row.rule for row in rows if row.rule.temperature > 0]
    if not drawing:
        return Draws.NOTHING
    return Draws.HEAVIEST if any(rule.cuts for rule in drawing) else Draws.ANY
