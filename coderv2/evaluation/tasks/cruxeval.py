"""CRUXEval (Gu et al. 2024): what a short function returns for an input, or an input for which it returns a value."""

import ast
from collections.abc import Iterable
from dataclasses import dataclass

from coderv2.evaluation.asking import Ask, Chat, Complete, Decoding, Exchange, Problem, Style
from coderv2.evaluation.data import Data, Source
from coderv2.evaluation.execution import LIMITS, Executed
from coderv2.sandbox.judge import Program

_SOURCE = Source(
    "cruxeval/cruxeval.jsonl.gz",
    "https://github.com/facebookresearch/cruxeval/raw/190faf16d175b5847b0af05d937872b1fb395942/data/cruxeval.jsonl",
)
_OPEN, _CLOSE = "[ANSWER]", "[/ANSWER]"
_TASK = {
    "output": (
        "You are given a Python function and an assertion with an input. Work out, step by step, what the function "
        "returns for it, then write the assertion with that value, a literal, between [ANSWER] and [/ANSWER]."
    ),
    "input": (
        "You are given a Python function and what it must return. Work out, step by step, an input for "
        "which it returns "
        "that, then write the assertion with that call between [ANSWER] and [/ANSWER]. Any right input will do."
    ),
}
_EXAMPLES = {
    "output": (
        "def f(s):\n    s = s + s\n    return 'b' + s + 'a'\nassert f('hi') == ??\n[/PYTHON]\n[THOUGHT]\n"
        "The input is 'hi'. s + s is 'hihi'. With 'b' before it and 'a' after it that is 'bhihia'.\n[/THOUGHT]\n"
        "[ANSWER]\nassert f('hi') == 'bhihia'\n[/ANSWER]"
    ),
    "input": (
        "def f(x):\n    return x + 1\nassert f(??) == 17\n[/PYTHON]\n[THOUGHT]\n"
        "The function adds 1, so the input is one less than 17, which is 16.\n[/THOUGHT]\n"
        "[ANSWER]\nassert f(16) == 17\n[/ANSWER]"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Cruxeval(Executed):
    """`asked` is output or input; an answer is right when the assertion with it holds."""

    asked: str

    def problems(self, data: Data) -> Iterable[Problem]:
        """One for each row."""
        return (Problem(row["id"], row) for row in data.rows(_SOURCE))

    def prompt(self, problem: Problem, style: Style) -> Ask:
        """One worked example with its thoughts, then the function."""
        row = problem.row
        question = f"f({row['input']}) == ??" if self.asked == "output" else f"f(??) == {row['output']}"
        text = (
            f"{_TASK[self.asked]}\n\n[PYTHON]\n{_EXAMPLES[self.asked]}\n\n"
            f"[PYTHON]\n{row['code']}\nassert {question}\n[/PYTHON]\n[THOUGHT]\n"
        )
        decoding = Decoding(1024, stop=(_CLOSE,))
        return Chat.of(text, decoding) if style == "chat" else Complete(text, decoding)

    def code(self, problem: Problem, exchange: Exchange) -> str | None:
        """The assertion, if it is one that answers: a literal where the value is asked, else a call of f."""
        answer = exchange.reply.text.rpartition(_OPEN)[2].partition(_CLOSE)[0]
        found = _expression(answer, self.asked)
        row = problem.row
        if found is None:
            return None
        claim = (
            f"f({row['input']}) == ({found})" if self.asked == "output" else f"({found}) == ({row['output']})"
        )
        return f"{row['code']}\n\nassert {claim}\n"

    def program(self, problem: Problem, code: str) -> Program:
        """The code ends in the assertion."""
        return Program("python", code, tests="pass\n", limits=LIMITS)

    def canonical(self, problem: Problem, style: Style) -> str:
        """The data's own pair."""
        row = problem.row
        return f"{_OPEN}\nassert f({row['input']}) == {row['output']}\n{_CLOSE}"


def _expression(answer: str, asked: str) -> str | None:
    """The side of the assertion that was asked for, or the bare expression."""
    try:
        (statement,) = ast.parse(answer.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    node = statement.test if isinstance(statement, ast.Assert) else getattr(statement, "value", None)
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq):
        node = node.comparators[0] if asked == "output" else node.left
    if not isinstance(node, ast.expr):
        return None
    calls = [n for n in ast.walk(node) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "f"]
    right_kind = not calls if asked == "output" else calls == [node]
    return ast.unparse(node) if right_kind else None


TASKS = (
    Cruxeval(name="cruxeval-i", title="CRUXEval-I-CoT", sources=(_SOURCE,), asked="input"),
    Cruxeval(name="cruxeval-o", title="CRUXEval-O-CoT", sources=(_SOURCE,), asked="output"),
)
