"""Aider's code editing benchmark: 133 Exercism exercises in Python; a second try sees what the tests said to the first.

Edit format "whole": each file comes back complete, in a code block under its name.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from coderv2.errors import ContextTooLong
from coderv2.evaluation import inside
from coderv2.evaluation.asking import Ask, Chat, Decoding, Exchange, Place, Problem, Style
from coderv2.evaluation.data import Data, Source
from coderv2.evaluation.execution import Executed, fenced
from coderv2.evaluation.task import Attempt, Score, Tools, too_long
from coderv2.sandbox.judge import Program
from coderv2.sandbox.limits import Limits
from coderv2.text import snippets
from coderv2.text.chat import Message

_SOURCE = Source(
    "aider-exercism-python/exercises.jsonl.gz",
    how=(
        "the 133 practice exercises of github.com/exercism/python at 367faf4 (June 2024), one a line: "
        "name, solution, test "
        "and example (lists of paths) and files (path to text)"
    ),
)
_LIMITS = Limits(seconds=60.0)
_SYSTEM = (
    "Act as an expert software developer. Take requests for changes to the supplied code. Answer with the "
    "full content of "
    "each file that you change, never a part of it: the file's name alone on a line, then its content in a code block."
)
_NOTE = (
    "\n####\n\nUse the above instructions to change these files: {files}. Keep the names of existing "
    "functions and classes: "
    "they are used by other code. Use only the standard library."
)
_AGAIN = "####\n\nSee the testing errors above. The tests are right. Fix the code in {files} so that it passes them."


@dataclass(frozen=True, kw_only=True)
class Aider(Executed):
    """The published score is after the second try; after the first it is beside it."""

    metric: str = "pass rate 2"

    def problems(self, data: Data) -> Iterable[Problem]:
        """One for each exercise."""
        return (Problem(row["name"], row) for row in data.rows(_SOURCE))

    def prompt(self, problem: Problem, style: Style) -> Ask:
        """The instructions and the files as they are."""
        row = problem.row
        docs = [
            row["files"].get(f".docs/{name}.md", "")
            for name in ("introduction", "instructions", "instructions.append")
        ]
        stubs = "\n\n".join(f"{name}\n{fenced(row['files'][name])}" for name in row["solution"])
        text = "\n".join(filter(None, docs)) + _NOTE.format(files=", ".join(row["solution"])) + f"\n\n{stubs}"
        return Chat((Message("system", _SYSTEM), Message("user", text)), Decoding(2048))

    async def attempt(self, place: Place, style: Style, tools: Tools) -> Attempt:
        """One try, and another where its tests failed."""
        first = await Executed.attempt(self, place, style, tools)
        if first.score.passed:
            return _counted(first, first)
        ask = first.exchange.ask
        assert isinstance(ask, Chat)
        said = f"{first.score.detail}\n\n{_AGAIN.format(files=', '.join(place.problem.row['solution']))}"
        turns = (Message("assistant", first.exchange.reply.text), Message("user", said))
        again = Chat((*ask.messages, *turns), ask.decoding)
        try:
            exchange = Exchange(again, await tools.ask(again, place))
        except ContextTooLong as error:
            return _counted(first, too_long(again, error))
        second = Attempt(exchange, await self.score(place.problem, exchange, tools))
        return _counted(first, second)

    def code(self, problem: Problem, exchange: Exchange) -> str | None:
        """The one file that every exercise has."""
        found = edited(exchange.reply.text, problem.row["solution"])
        return found.get(problem.row["solution"][0])

    def program(self, problem: Problem, code: str) -> Program:
        """The exercise's tests, judged from a process that the solution cannot reach."""
        row = problem.row
        beside = {path: text for path, text in row["files"].items() if not path.startswith(".")}
        files = {**beside, row["solution"][0]: code}
        return inside.program("unittest_checker", json.dumps(files).encode(), limits=_LIMITS)

    async def score(self, problem: Problem, exchange: Exchange, tools: Tools) -> Score:
        """The record shows the solution rather than the checker."""
        code = self.code(problem, exchange)
        if code is None:
            return Score(0.0, "no code", f"No file {problem.row['solution'][0]} in the answer.")
        score = replace(await Executed.score(self, problem, exchange, tools), program=code)
        return replace(score, detail="Tests timed out!") if score.reason == "timeout" else score

    def texts(self, problem: Problem) -> Iterable[str]:
        """The instructions and Exercism's example."""
        files = problem.row["files"]
        return (files[name] for name in files if name.startswith(".docs/") or name in problem.row["example"])

    def canonical(self, problem: Problem, style: Style) -> str:
        """Exercism's own example."""
        row = problem.row
        return f"{row['solution'][0]}\n{fenced(row['files'][row['example'][0]])}"


def edited(reply: str, names: Iterable[str]) -> dict[str, str]:
    """The files in a reply: blocks under a line that names them; a lone block is the lone file."""
    wanted = list(names)
    found: dict[str, str] = {}
    for name in wanted:
        mark = re.search(rf"(?m)^[*#` \t]*{re.escape(name)}[*:` \t]*$", reply)
        blocks = list(snippets.blocks(reply[mark.end() :] if mark else ""))
        if blocks:
            found[name] = blocks[0].code
    lone = list(snippets.blocks(reply))
    if not found and len(wanted) == 1 and len(lone) == 1:
        found[wanted[0]] = lone[0].code
    return found


def _counted(first: Attempt, last: Attempt) -> Attempt:
    others: Mapping[str, Any] = {
        "pass rate 1": first.score.value,
        "well formed": float("no code" not in (first.score.reason, last.score.reason)),
    }
    return replace(last, score=replace(last.score, others=others))


TASKS = (
    Aider(
        name="aider", title="Aider", sources=(_SOURCE,), styles=("chat",),
        note="Own runner of Aider's protocol (edit format whole, two tries).",
    ),
)  # fmt: skip
