"""Token sequences on disk, memory-mapped: `tokens.bin` holds the ids end to end, `bounds.npy` where each begins.

Ids are 16 bits wide when the vocabulary allows, else 32. `trained.bin`, where there is one, holds a byte per
token: 1 if its prediction counts in the loss; without the file all of them do.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coderv2.errors import BadData


@dataclass(frozen=True)
class Example:
    """One sequence; it attends only to itself."""

    ids: NDArray[np.integer[Any]]
    trained: NDArray[np.bool_]
    """Which tokens' predictions count in the loss."""

    def __len__(self) -> int:
        return len(self.ids)


def as_example(ids: list[int]) -> Example:
    """A sequence of which every token counts."""
    return Example(np.asarray(ids), np.ones(len(ids), dtype=np.bool_))


def write(folder: Path, examples: Iterable[list[int] | tuple[list[int], list[bool]]], vocab_size: int) -> int:
    """Writes a shard and returns its tokens. An example is its ids, or its ids and which of them are trained."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = np.uint16 if vocab_size <= 2**16 else np.uint32
    bounds = [0]
    with (folder / "tokens.bin").open("wb") as tokens, (folder / "trained.bin").open("wb") as marks:
        for example in examples:
            ids, trained = example if isinstance(example, tuple) else (example, [True] * len(example))
            if not ids:
                raise BadData(f"{folder}: example {len(bounds) - 1} has no token")
            tokens.write(np.asarray(ids, dtype=kind).tobytes())
            marks.write(np.asarray(trained, dtype=np.uint8).tobytes())
            bounds.append(bounds[-1] + len(ids))
    if bounds[-1] == 0:
        raise BadData(f"{folder}: no token was left to write")
    np.save(folder / "bounds.npy", np.asarray(bounds, dtype=np.int64))
    (folder / "shard.json").write_text(json.dumps({"dtype": np.dtype(kind).name, "tokens": bounds[-1]}))
    return bounds[-1]


class Shard:
    """A written shard, as a sequence of examples."""

    def __init__(self, folder: Path) -> None:
        try:
            kind = np.dtype(json.loads((folder / "shard.json").read_text())["dtype"])
            self._bounds = np.load(folder / "bounds.npy")
            self._tokens = np.memmap(folder / "tokens.bin", dtype=kind, mode="r")
            self._trained = np.memmap(folder / "trained.bin", dtype=np.bool_, mode="r")
        except (OSError, ValueError, KeyError) as error:
            raise BadData(f"{folder} is not a token shard: {error}") from error
        if not len(self._tokens) == len(self._trained) == self._bounds[-1]:
            raise BadData(f"{folder} holds {len(self._tokens)} tokens, its bounds say {self._bounds[-1]}")

    @property
    def tokens(self) -> int:
        return int(self._bounds[-1])

    @property
    def fingerprint(self) -> str:
        """Tells this shard from others, by the lengths of its examples."""
        return hashlib.sha256(self._bounds.tobytes()).hexdigest()[:16]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example."""
        lengths: NDArray[np.int64] = np.diff(self._bounds)
        return lengths

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, number: int) -> Example:
        place = slice(int(self._bounds[number]), int(self._bounds[number + 1]))
        return Example(self._tokens[place], self._trained[place])

    def __iter__(self) -> Iterator[Example]:
        return (self[number] for number in range(len(self)))
