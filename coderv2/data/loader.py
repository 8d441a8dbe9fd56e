"""Examples to packed rows, shuffled, endless, and resumable at any row."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from coderv2.data.shards import Example, Shard
from coderv2.log import logger

Row = list[Example]
"""Examples laid end to end in one forward pass; each attends only to itself."""


@dataclass(frozen=True)
class LoaderState:
    """Where the next row begins: enough to go on after a kill."""

    epoch: int = 0
    position: int = 0


class Loader:
    """Rows of whole examples, at most `row_tokens` each; a longer example is cut to the row.

    Each epoch is a new order of the same examples, drawn from `seed` and the epoch's number. A row may hold the
    end of one epoch and the beginning of the next.
    """

    def __init__(self, shard: Shard, row_tokens: int, *, seed: int, state: LoaderState | None = None) -> None:
        self._shard = shard
        self._row_tokens = row_tokens
        self._seed = seed
        self.state = state or LoaderState()
        self._order = self._shuffle()
        if cut := int((shard.lengths > row_tokens).sum()):
            logger.warning(
                "%d of %d examples are longer than a row of %d tokens and lose their ends",
                cut,
                len(shard),
                row_tokens,
            )

    def __iter__(self) -> Iterator[Row]:
        while True:
            yield self.next_row()

    def next_row(self) -> Row:
        row: Row = []
        room = self._row_tokens
        while len(example := self._peek()) <= room or not row:
            row.append(example)
            room -= len(example)
            self._advance()
        return row

    def _peek(self) -> Example:
        example = self._shard[int(self._order[self.state.position])]
        return Example(example.ids[: self._row_tokens], example.trained[: self._row_tokens])

    def _advance(self) -> None:
        self.state = LoaderState(self.state.epoch, self.state.position + 1)
        if self.state.position == len(self._shard):
            self.state = LoaderState(self.state.epoch + 1, 0)
            self._order = self._shuffle()

    def _shuffle(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.random.default_rng((self._seed, self.state.epoch)).permutation(len(self._shard))
