"""MBPP (Austin et al. 2021): 500 short Python tasks (ids 11 to 510), each with three assertions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from coderv2.evaluation.asking import Ask, Chat, Complete, Decoding, Exchange, Problem, Style
from coderv2.evaluation.data import Data, Source
from coderv2.evaluation.execution import LIMITS, Executed, cut, fenced, is_chat
from coderv2.sandbox.judge import Program
from coderv2.text import snippets

_SHOTS = (2, 3, 4)
_TESTED = range(11, 511)
_END = "[DONE]"
_EXPERT = "You are an expert Python programmer, and here is your task:"


@dataclass(frozen=True, kw_only=True)
class Mbpp(Executed):
    """Base models see three worked tasks first; the assertions are part of the prompt."""

    def problems(self, data: Data) -> Iterable[Problem]:
        """The test split."""
        rows = {row["task_id"]: row for row in data.rows(self.sources[0])}
        shots = "".join(f"{_task(rows[i])}[BEGIN]\n{_unix(rows[i]['code'])}\n{_END}\n\n" for i in _SHOTS)
        return (Problem(f"MBPP/{i}", {**row, "shots": shots}) for i, row in rows.items() if i in _TESTED)

    def prompt(self, problem: Problem, style: Style) -> Ask:
        """Task and assertions."""
        if style == "chat":
            return Chat.of(f"{_task(problem.row)}Write the function in a Python code block.")
        return Complete(f"{problem.row['shots']}{_task(problem.row)}[BEGIN]\n", Decoding(512, stop=(_END,)))

    def code(self, problem: Problem, exchange: Exchange) -> str | None:
        """All of the reply's code."""
        if is_chat(exchange):
            return snippets.block(exchange.reply.text, "python")
        return cut(exchange.reply.text, (_END,))

    def program(self, problem: Problem, code: str) -> Program:
        """Code, set-up, assertions."""
        lines = [problem.row["test_setup_code"], *problem.row["test_list"]]
        return Program("python", code, tests=_unix("\n".join(lines)), limits=LIMITS)

    def canonical(self, problem: Problem, style: Style) -> str:
        """The data's own solution."""
        code = _unix(problem.row["code"])
        return fenced(code) if style == "chat" else code


def _task(row: Mapping[str, Any]) -> str:
    tests = "\n".join(row["test_list"])
    text = row["text"].strip()
    return f"{_EXPERT} {text} Your code should pass these tests:\n\n{tests}\n"


def _unix(code: str) -> str:
    return code.replace("\r\n", "\n")


TASKS = (
    Mbpp(
        name="mbpp",
        title="MBPP",
        styles=("base", "chat"),
        sources=(
            Source(
                "mbpp/mbpp.jsonl.gz",
                "https://raw.githubusercontent.com/google-research/google-research/master/mbpp/mbpp.jsonl",
            ),
        ),
    ),
)
