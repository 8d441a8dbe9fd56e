"""HumanEval+ and MBPP+ (Liu et al. 2023): many more questions for each task, answered by a reference and compared.

Verdicts are those of evalplus 0.3.1, with its time limits, tolerances and special rules; `plus_checker` gives them
inside the sandbox. Two differences are meant: `find_zero` can be passed (evalplus counts no answer there, and fails
everybody), and a candidate cannot pass by returning objects that call themselves equal to anything.
"""

import pickle
from collections.abc import Callable, Mapping
from typing import Any

from coderv2.evaluation import inside
from coderv2.sandbox.judge import Program
from coderv2.sandbox.run import Limits

_LIMITS = Limits(
    seconds=130.0, memory_bytes=4 << 30, output_bytes=256 << 20
)  # each call has its own limit inside


def reference(row: Mapping[str, Any]) -> Program:
    """A program that prints the `truth` of a row: what its reference solution answers, and in which time.

    `row` is one line of the data. Its verdict's `stdout` is the truth; it is the same on every run but for the times.
    """
    code = row["prompt"] + row["canonical_solution"]
    task = _task(row, code, is_reference=True)
    return inside.program("plus_checker", task, limits=_LIMITS, vouched=False)


def program(row: Mapping[str, Any], code: str, truth: bytes) -> Program:
    """A program whose verdict is that on `code`, which must define the row's `entry_point`."""
    return inside.program("plus_checker", _task(row, code, is_reference=False), truth, limits=_LIMITS)


def questions(row: Mapping[str, Any], part: str) -> list[list[Any]]:
    """The arguments of each call (`part` is base or plus), with the tuples, sets, complex numbers that JSON lacks."""
    restore = _RESTORE.get(row["task_id"], list)
    return [restore(arguments) for arguments in row[f"{part}_input"] or []]


def _task(row: Mapping[str, Any], code: str, *, is_reference: bool) -> bytes:
    return pickle.dumps({
        "is_reference": is_reference,
        "code": code,
        "entry": row["entry_point"],
        "tolerance": row["atol"],
        **{part: questions(row, part) for part in ("base", "plus")},
    })  # fmt: skip


# --- what JSON could not hold, by MBPP's task numbers --------------------------------------------------------------

Arguments = list[Any]


def _tuples(arguments: Arguments) -> Arguments:
    return [tuple(each) for each in arguments]


def _lists_of_tuples(arguments: Arguments) -> Arguments:
    return [_tuples(each) for each in arguments]


def _first_is_list_of_tuples(arguments: Arguments) -> Arguments:
    return [_tuples(arguments[0]), arguments[1]]


def _first_is_tuple(arguments: Arguments) -> Arguments:
    return [tuple(arguments[0]), *arguments[1:]]


def _second_is_tuple(arguments: Arguments) -> Arguments:
    return [arguments[0], tuple(arguments[1])]


def _tuples_of_tuples(arguments: Arguments) -> Arguments:
    return [tuple(map(tuple, each)) for each in arguments]


def _tuple_of_some_tuples(arguments: Arguments) -> Arguments:
    return [tuple(tuple(part) if isinstance(part, list) else part for part in arguments[0])]


def _tuples_all_the_way(arguments: Any) -> Any:
    return tuple(map(_tuples_all_the_way, arguments)) if isinstance(arguments, list) else arguments


def _sets(arguments: Arguments) -> Arguments:
    return [[set(part) if isinstance(part, list) and part else {} for part in arguments[0]]]


def _dictionary_of_tuples(arguments: Arguments) -> Arguments:
    return [{key: tuple(value) for key, value in arguments[0].items()}, *arguments[1:]]


_KINDS: dict[Callable[[Arguments], Arguments], str] = {
    _tuples: "2 116 132 143 222 261 273 394 399 421 424 429 470 560 579 596 616 630 726 740 744 809",
    _lists_of_tuples: "63 64 70 94 120 237 272 299 400 409 417 438 473 614 780",
    _first_is_list_of_tuples: "75 413 444 753",
    _second_is_tuple: "106 750",
    _first_is_tuple: "250 307 405 446 617 720 763 808",
    _tuples_of_tuples: "259 401 445",
    _tuple_of_some_tuples: "278",
    _tuples_all_the_way: "580 615 791",
    _sets: "115",
    _dictionary_of_tuples: "722",
    lambda arguments: [float(arguments[0]), complex(arguments[1])]: "124",
    lambda arguments: [complex(arguments[0])]: "252",
}
_RESTORE = {f"Mbpp/{number}": restore for restore, numbers in _KINDS.items() for number in numbers.split()}
