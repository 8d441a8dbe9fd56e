"""Exercises by combination: numbers of a list that meet a condition are changed and summed up."""

import itertools
from collections.abc import Iterator

from coderv2.data.exercises import Exercise

_CONDITIONS = (
    ("even", "x % 2 == 0"),
    ("odd", "x % 2 == 1"),
    ("positive", "x > 0"),
    ("negative", "x < 0"),
    ("large", "x > 10"),
    ("small", "x < 10"),
)
"""Name, and test in code."""
_CHANGES = (
    ("", "x", ""),
    ("squares", "x * x", "the squares of "),
    ("doubles", "2 * x", "the doubles of "),
    ("cubes", "x ** 3", "the cubes of "),
    ("halves", "x / 2", "the halves of "),
)
"""Name, term in code, words."""
_SUMMARIES = (
    ("sum", "sum({})", "adds up"),
    ("list", "[{}]", "returns"),
    ("largest", "max(({}), default=None)", "finds the largest of"),
    ("smallest", "min(({}), default=None)", "finds the smallest of"),
    ("count", "len([{}])", "counts"),
)
"""Name, call in code, words."""
_SAMPLE = (4, -3, 11, 6, 15, -8)


def composed() -> Iterator[Exercise]:
    """Every combination; sums and lists are solved in one expression and by a loop."""
    for (kind, test), (change, term, of), (summary, call, verb) in itertools.product(
        _CONDITIONS, _CHANGES, _SUMMARIES
    ):
        name = "_".join(part for part in (summary, change, kind) if part)
        says = f"{verb} {of}the {kind} numbers of a list"
        expression = call.format(f"{term} for x in numbers if {test}")
        yield _with_sample(name, says, f"def {name}(numbers):\n    return {expression}\n")
        if summary == "sum":
            yield _with_sample(name, says, _sum_loop(name, test, term))
        if summary == "list":
            yield _with_sample(name, says, _list_loop(name, test, term))


def _sum_loop(name: str, test: str, term: str) -> str:
    return (
        f"def {name}(numbers):\n    total = 0\n    for x in numbers:\n        if {test}:\n"
        f"            total += {term}\n    return total\n"
    )


def _list_loop(name: str, test: str, term: str) -> str:
    return (
        f"def {name}(numbers):\n    result = []\n    for x in numbers:\n        if {test}:\n"
        f"            result.append({term})\n    return result\n"
    )


def _with_sample(name: str, says: str, code: str) -> Exercise:
    """The exercise with what its solution gives on the sample list as its check."""
    space: dict[str, object] = {}
    exec(code, space)
    call = f"{name}({list(_SAMPLE)})"
    value = eval(call, space)
    return Exercise(name, says, "", (), ("numbers", "values", "items"), code, (f"{call} == {value!r}",))
