"""LiveCodeBench (Jain et al. 2024), code generation: contest problems from 2023-12-01 to 2024-06-01, 226 of them."""

import base64
import io
import json
import pickle
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

from coderv2.errors import BadData
from coderv2.evaluation.asking import Ask, Chat, Decoding, Exchange, Problem, Style
from coderv2.evaluation.data import Data, Row, Source
from coderv2.evaluation.execution import WAITING, Executed, fenced, last_block, solution, within
from coderv2.sandbox.judge import Case, Program
from coderv2.text import snippets
from coderv2.text.chat import Message

_SOURCE = Source(
    "livecodebench/test.jsonl.gz",
    how="the test*.jsonl of huggingface.co/datasets/livecodebench/code_generation_lite, joined to one file",
)
_WINDOW = ("2023-12-01", "2024-06-01")
_SECONDS = 6.0
_SYSTEM = "You are an expert Python programmer. You write a correct program that passes all tests."
# Programs find the library as the benchmark's own runner gives it to them, `List` of the starter code too.
_MODULES = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics", "itertools",
    "functools", "operator", "io", "sys", "json", "builtins", "typing",
)  # fmt: skip
_PRELUDE = "\n".join(
    [
        *(f"from {m} import *" for m in _MODULES),
        f"import {', '.join(_MODULES)}",
        "sys.setrecursionlimit(50000)",
        "",
    ]
)
# The signals end the process: a handler's exception could be caught by the program.
_HARNESS = """

def _run():
    import json, signal
    def allow(seconds, waiting):
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, waiting)

    for arguments, wanted in json.loads({tests!r}):
        allow({seconds}, {waiting})
        found = Solution().{name}(*map(json.loads, arguments.split("\\n")))
        allow(0, 0)
        found = list(found) if isinstance(found, tuple) else found
        assert found == json.loads(wanted), f"{{arguments}} gave {{found!r}}"

_run()
"""


@dataclass(frozen=True, kw_only=True)
class LiveCodeBench(Executed):
    """Programs that read standard input, or a class with a method that is called."""

    def problems(self, data: Data) -> Iterable[Problem]:
        """Those of the window."""
        for row in data.rows(_SOURCE):
            if _WINDOW[0] <= row["contest_date"][:10] < _WINDOW[1]:
                yield Problem(str(row["question_id"]), {**row, "tests": _tests(row)}, row["difficulty"])

    def prompt(self, problem: Problem, style: Style) -> Ask:
        """The question, then the form of the answer."""
        row = problem.row
        form = "Read the input from standard input and write the answer to standard output."
        if row["starter_code"]:
            form = f"Use this starter code:\n{fenced(row['starter_code'])}"
        form += "\nAnswer with the program in a code block."
        text = f"### Question\n{row['question_content']}\n\n### Format\n{form}"
        return Chat((Message("system", _SYSTEM), Message("user", text)), Decoding(2000))

    def code(self, problem: Problem, exchange: Exchange) -> str | None:
        """What stands in the last code block."""
        return last_block(exchange.reply.text)

    def program(self, problem: Problem, code: str) -> Program:
        """Each test in turn, until one fails."""
        row, code = problem.row, with_library(code)
        if row["tests"][0]["testtype"] == "stdin":
            cases = tuple(Case(test["input"].encode(), test["output"], same_values) for test in row["tests"])
            return Program("python", code, cases=cases, limits=within(_SECONDS))
        name = _object(row["metadata"])["func_name"]
        tests = json.dumps([[test["input"], test["output"]] for test in row["tests"]])
        harness = _HARNESS.format(tests=tests, name=name, seconds=_SECONDS, waiting=WAITING * _SECONDS)
        return Program("python", code, tests=harness, limits=within(_SECONDS * (1 + len(row["tests"]))))

    def canonical(self, problem: Problem, style: Style) -> str:
        """The data brings none; a copy may have one as `canonical_solution`."""
        return fenced(solution(problem))


def with_library(code: str) -> str:
    """The program after the usual imports, but for those that must stay first."""
    return snippets.joined(_PRELUDE, code)


def same_values(printed: str, expected: str) -> bool:
    """Whether all lines are equal, white space around them aside, or equal as lists of decimals."""
    ours, theirs = ([line.strip() for line in text.strip().split("\n")] for text in (printed, expected))
    return len(ours) == len(theirs) and all(
        a == b or _equal_decimals(a, b) for a, b in zip(ours, theirs, strict=True)
    )


def _equal_decimals(a: str, b: str) -> bool:
    try:
        return list(map(Decimal, a.split())) == list(map(Decimal, b.split()))
    except InvalidOperation:
        return False


def _tests(row: Row) -> list[Row]:
    return [*_object(row["public_test_cases"]), *_private(row["private_test_cases"])]


def _object(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _private(value: Any) -> list[Row]:
    """JSON as it is, or packed: base64, zlib, and a pickle that may hold nothing but text."""
    try:
        found: list[Row] = _object(value)
    except ValueError:
        packed = zlib.decompress(base64.b64decode(value))
        found = json.loads(_OnlyText(io.BytesIO(packed)).load())
    return found


class _OnlyText(pickle.Unpickler):
    """Loads no class and no function: a pickle from elsewhere could run anything."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise BadData(f"{_SOURCE.path}: a test case wants to load {module}.{name}, and should be mere text")


TASKS = (LiveCodeBench(name="livecodebench", title="LiveCodeBench", sources=(_SOURCE,), styles=("chat",)),)
