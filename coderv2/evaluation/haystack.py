"""Long text of a wanted number of tokens with something hidden in it: prose, or modules of code; made, not copied."""

import random
from collections.abc import Sequence

from coderv2.text.tokenizer import Tokenizer

_PLACES = [
    "harbour",
    "orchard",
    "mill",
    "library",
    "market",
    "chapel",
    "quarry",
    "garden",
    "station",
    "bakery",
    "bridge",
    "school",
]
_PEOPLE = [
    "miller",
    "clerk",
    "sailor",
    "teacher",
    "gardener",
    "painter",
    "joiner",
    "nurse",
    "baker",
    "porter",
    "weaver",
    "guide",
]
_ACTS = [
    "counted",
    "repaired",
    "described",
    "measured",
    "sorted",
    "carried",
    "sketched",
    "remembered",
    "planted",
    "weighed",
    "copied",
    "washed",
]
_THINGS = [
    "lamps",
    "ropes",
    "letters",
    "apples",
    "barrels",
    "maps",
    "bricks",
    "kettles",
    "ledgers",
    "windows",
    "boats",
    "candles",
]
_TIMES = ["before noon", "after the rain", "in spring", "at dusk", "that winter", "on market day,"]
_WORDS = [
    "buffer",
    "window",
    "packet",
    "ledger",
    "cursor",
    "sample",
    "socket",
    "branch",
    "kernel",
    "vector",
    "region",
    "bucket",
]


def sentences(count: int, seed: int = 0) -> list[str]:
    """Plain sentences about a town, each with its space in front: so their tokens add up."""
    draw = random.Random(seed)
    pick = draw.choice
    return [
        f" {pick(_TIMES).strip(',').capitalize()} the {pick(_PEOPLE)} of the {pick(_PLACES)} {pick(_ACTS)} "
        f"{draw.randrange(2, 90)} {pick(_THINGS)} and the {pick(_PEOPLE)} {pick(_ACTS)} the {pick(_THINGS)}."
        for _ in range(count)
    ]


def modules(count: int, seed: int = 0) -> list[str]:
    """Short Python files, each with a constant of its own and a function that uses it."""
    draw = random.Random(seed)
    return [_module(draw, number) for number in range(count)]


def constant(number: int, draw: random.Random) -> tuple[str, int]:
    """The name and the value of a module's constant."""
    first, second = draw.choice(_WORDS), draw.choice(_WORDS)
    return f"{first.upper()}_{second.upper()}_{number}", draw.randrange(10_000, 100_000)


def _module(draw: random.Random, number: int) -> str:
    name, value = constant(number, draw)
    return (
        f"# file: {name.lower()}.py\n{name} = {value}\n\n\ndef scale_{number}(amount: int) -> int:\n"
        f"    return amount * {name} // {draw.randrange(2, 9)}\n\n\n"
    )


class Haystack:
    """Pieces with their sizes, for contexts of any length."""

    def __init__(self, pieces: Sequence[str], tokenizer: Tokenizer) -> None:
        self._pieces, self._tokenizer = pieces, tokenizer
        self._sizes = [len(tokenizer.encode(piece)) for piece in pieces]

    def hiding(self, hidden: str, tokens: int, depth: float) -> str:
        """As many of the pieces as `tokens` hold, with `hidden` between two of them, at `depth` of the way (0 to 1)."""
        room, kept = tokens - len(self._tokenizer.encode(hidden)), 0
        while room >= self._sizes[kept]:
            room -= self._sizes[kept]
            kept += 1
        place = round(depth * kept)
        return "".join([*self._pieces[:place], hidden, *self._pieces[place:kept]])
