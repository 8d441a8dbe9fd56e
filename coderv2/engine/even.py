"""Decode steps of ranks with sequences of their own: as many rows on every rank, so that they can be recorded.

What is cut in a feed-forward sees the tokens of all ranks, and a recorded pass always has as many. So before a pass
each rank says how many rows it has, and what their draws ask for at most; where all only decode, each repeats the step
that is large enough for any of them, one without sequences too. All have then recorded the same steps in the same
order, sums included.

With the same word each says what it would start ahead, and whether what was started before is the step that it wants
now: all go on with that, or all start another.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

from coderv2.engine.graphs import DecodeGraphs, Flight, Row
from coderv2.engine.scheduler import Chunk
from coderv2.engine.steps import Draws, Steps

NEVER = -1
"""Rows of a pass that no recorded step takes."""
Form = tuple[int, Draws]
NOBODY: Form = 0, Draws.NOTHING


@dataclass(frozen=True)
class Word:
    """What a rank says before a pass."""

    rows: int
    draws: int
    serves: int
    """Whether the step that was started ahead is the one that it wants."""
    next_rows: int
    """Of the step after this one, if that is started ahead."""
    next_draws: int


class EvenGraphs(DecodeGraphs):
    """One rank's part in them; every call of `takes` is one of all ranks, and `run` comes after it."""

    def __init__(self, steps: Steps, heard: Callable[..., list[tuple[int, ...]]], **more: Any) -> None:
        """`heard` tells all ranks some numbers, and brings those of each."""
        super().__init__(steps, **more)
        self._heard = heard
        self._agreed: Form | None = None
        """Of the step that is started next."""
        self._after: Form | None = None
        """Of the one after it; None: it is not started ahead."""
        self._going: list[Row] | None = None
        """Its sequences here, each from the token of the chunk with the number that is its source."""

    def takes(self, chunks: Sequence[Chunk]) -> bool:
        """True where every rank only decodes, and one has something to."""
        every = [Word(*numbers) for numbers in self._heard(*astuple(self._word(chunks)))]
        self._agreed = _largest([(word.rows, word.draws) for word in every])
        self._after = _largest([(word.next_rows, word.next_draws) for word in every])
        if self._agreed is None or not all(word.serves for word in every):
            self.drop()
        return self._agreed is not None

    def _word(self, chunks: Sequence[Chunk]) -> Word:
        self._going = None
        if not super().takes(chunks):
            return Word(NEVER, 0, False, NEVER, 0)
        serves = self._ahead is not None and self._ahead.places(chunks) is not None
        self._going = self._next(range(len(chunks)), chunks)
        rows = [Row.of(chunk) for chunk in chunks]
        return Word(*self._need(rows), serves, *self._need(self._going))

    def _need(self, rows: Sequence[Row] | None) -> Form:
        if rows is None:
            return NEVER, Draws.NOTHING
        return super()._form(rows) if rows else NOBODY

    def _form(self, rows: Sequence[Row]) -> Form:
        assert self._agreed is not None
        return self._agreed

    def _follow(self, places: Sequence[int], chunks: Sequence[Chunk]) -> Flight | None:
        self._agreed = self._after
        if self._going is None or self._agreed is None or not self._steps.known(*self._agreed):
            return None
        return self._start([replace(row, source=places[row.source]) for row in self._going])


def _largest(forms: Sequence[tuple[int, int]]) -> Form | None:
    """The step that is large enough for all; None where one has none, or nobody needs any."""
    rows, draws = (max(numbers) for numbers in zip(*forms, strict=True))
    return None if rows <= 0 or any(theirs == NEVER for theirs, _ in forms) else (rows, Draws(draws))
