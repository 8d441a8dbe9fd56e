"""The needle's grid: what was found in each cell, a length of context and a depth, and the grid as CSV."""

import csv
import io
import statistics
from collections import defaultdict
from collections.abc import Iterable

from coderv2.errors import InvalidValue
from coderv2.evaluation.score import Item

LENGTHS = tuple(round(1 + 127 * step / 15) * 1000 for step in range(16))
"""Tokens of context, from 1K to 128K."""
DEPTHS = tuple(range(0, 101, 10))
"""Percent of the way."""
LEAST, MOST = 500, 1 << 20
"""Of a length: the needle, question and answer take some 300 tokens."""

Cell = tuple[int, int]
"""Length and depth, which are also a problem's id."""


def lengths(given: Iterable[int]) -> tuple[int, ...]:
    """Ascending, each once. InvalidValue for one that no context has."""
    return _numbers(given, LEAST, MOST, "lengths")


def depths(given: Iterable[int]) -> tuple[int, ...]:
    """The same of depths."""
    return _numbers(given, 0, 100, "depths")


def _numbers(given: Iterable[int], least: int, most: int, name: str) -> tuple[int, ...]:
    numbers = tuple(sorted(set(given)))
    if not numbers or numbers[0] < least or numbers[-1] > most:
        raise InvalidValue(f"{name} are from {least:,} to {most:,}", param=name)
    return numbers


def cells(items: Iterable[Item]) -> dict[Cell, list[float]]:
    """The share that each sample of a cell found, by length and then depth."""
    found: dict[Cell, list[float]] = defaultdict(list)
    for item in items:
        length, depth = map(int, item.problem.split("/"))
        found[length, depth].append(item.value)
    return dict(sorted(found.items()))


def as_csv(items: Iterable[Item]) -> bytes:
    """A line for each cell: length, depth, the mean of its samples, how many."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("length", "depth", "found", "samples"))
    for (length, depth), shares in cells(items).items():
        writer.writerow((length, depth, f"{statistics.fmean(shares):.4g}", len(shares)))
    return file.getvalue().encode()
