"""Decode steps of ranks with sequences of their own: as many rows on every rank, so that they can be recorded.

What is cut in a feed-forward sees the tokens of all ranks, and a recorded pass always has as many. So before a pass
each rank says how many rows it has, and what their draws ask for at most; where all only decode, each repeats the step
that is large enough for any of them, one without sequences too. All have then recorded the same steps in the same
order, sums included.

None is started ahead: with which sequences a rank goes on is known there alone, once the host has looked at its tokens.
"""

from collections.abc import Callable, Sequence
from typing import Any

from coderv2.engine.graphs import DecodeGraphs, Flight, Row
from coderv2.engine.scheduler import Chunk
from coderv2.engine.steps import Draws, Steps

NEVER = -1
"""Rows of a pass that no recorded step takes."""


class EvenGraphs(DecodeGraphs):
    """One rank's part in them; every call of `takes` is one of all ranks."""

    def __init__(self, steps: Steps, heard: Callable[..., list[tuple[int, ...]]], **more: Any) -> None:
        """`heard` tells all ranks some numbers, and brings those of each."""
        super().__init__(steps, **more)
        self._heard = heard
        self._agreed = (0, Draws.NOTHING)

    def takes(self, chunks: Sequence[Chunk]) -> bool:
        """True where every rank only decodes, and one has something to."""
        mine = super()._form([Row.of(chunk) for chunk in chunks]) if super().takes(chunks) else (NEVER, 0)
        every = self._heard(*(mine if chunks else (0, 0)))
        rows, draws = (max(numbers) for numbers in zip(*every, strict=True))
        self._agreed = rows, Draws(draws)
        return rows > 0 and all(theirs != NEVER for theirs, _ in every)

    def _form(self, rows: Sequence[Row]) -> tuple[int, Draws]:
        return self._agreed

    def _follow(self, flight: Flight, places: Sequence[int], chunks: Sequence[Chunk]) -> Flight | None:
        return None
