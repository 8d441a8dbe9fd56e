"""USACO (Shi et al. 2024): 307 problems of the American olympiad, each with its own limits of time and memory."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from coderv2.errors import BadData
from coderv2.evaluation.asking import Ask, Chat, Decoding, Exchange, Problem, Style
from coderv2.evaluation.data import Data, Row, Source
from coderv2.evaluation.execution import Executed, fenced, last_block, within
from coderv2.sandbox.judge import Case, Program
from coderv2.sandbox.limits import Limits

_HOW = "github.com/princeton-nlp/USACO says where: usaco_subset307_dict.json, and the folder usaco_v3/tests"
_PROBLEMS = Source("usaco/usaco_subset307_dict.json", how=_HOW)
_TESTS = Source("usaco/tests", how=_HOW)
_INPUT = re.compile(r"(?:(\d+)\.in|I\.(\d+))$")
_INSTRUCTION = (
    "Solve this problem with a Python 3 program that reads standard input and writes standard output, and "
    "uses no outside "
    "libraries. First restate the problem in plain English, then think of a solution in words, then write it in "
    "pseudocode, and last the program in one Python code block.\n\n"
)


@dataclass(frozen=True, kw_only=True)
class Usaco(Executed):
    """Solved when every test is, within the problem's own limits."""

    def problems(self, data: Data) -> Iterable[Problem]:
        """One for each entry of the dictionary."""
        folder = data.path(_TESTS)
        listed = json.loads(data.path(_PROBLEMS).read_bytes())
        for name, row in sorted(listed.items()):
            yield Problem(name, {**row, "cases": _cases(folder / name)}, row.get("problem_level", ""))

    def prompt(self, problem: Problem, style: Style) -> Ask:
        """Four steps to the program."""
        return Chat.of(_INSTRUCTION + problem.row["description"], Decoding(4096))

    def code(self, problem: Problem, exchange: Exchange) -> str | None:
        """What stands in the last code block."""
        return last_block(exchange.reply.text)

    def program(self, problem: Problem, code: str) -> Program:
        """Its cases under its limits."""
        row: Row = dict(problem.row)
        limits = within(float(row["runtime_limit"]), Limits(memory_bytes=int(row["memory_limit"]) << 20))
        return Program("python", code, cases=row["cases"], limits=limits)

    def canonical(self, problem: Problem, style: Style) -> str:
        """The reference solution, where the dictionary has one."""
        return fenced(problem.row["solution_python3"])


def _cases(folder: Path) -> tuple[Case, ...]:
    inputs = {f: _INPUT.search(f.name) for f in folder.iterdir()} if folder.is_dir() else {}
    numbered = sorted((int(m.group(1) or m.group(2)), f) for f, m in inputs.items() if m)
    if not numbered:
        raise BadData(f"{folder}: no tests there ({_HOW})")
    return tuple(Case(file.read_bytes(), _output(file).read_text("utf-8")) for _, file in numbered)


def _output(file: Path) -> Path:
    name = file.name
    return file.with_name(
        name.replace("I.", "O.", 1) if name.startswith("I.") else name.removesuffix("in") + "out"
    )


TASKS = (Usaco(name="usaco", title="USACO", sources=(_PROBLEMS, _TESTS), styles=("chat",)),)
