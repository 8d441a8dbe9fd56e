"""HumanEval+ and MBPP+ (Liu et al. 2023): the same tasks with many more tests, old and new to be passed."""

from collections.abc import Iterable
from dataclasses import dataclass

from coderv2.errors import ServiceError
from coderv2.evaluation import plus
from coderv2.evaluation.asking import Ask, Chat, Complete, Decoding, Exchange, Problem, Style
from coderv2.evaluation.data import Data, Source
from coderv2.evaluation.execution import cut, fenced, is_chat, judged
from coderv2.evaluation.task import Score, Tools
from coderv2.evaluation.tasks.humaneval import HumanEval
from coderv2.text import snippets

_STOPS = ('\n"""', "\nassert", "\nprint(", "\nif __name__", "\ndef main(")
_RELEASES = "https://github.com/evalplus/{}_release/releases/download/{}"
_INSTRUCTION = (
    "Write a self-contained Python function that solves this problem, in a code block:\n```\n{prompt}\n```"
)


@dataclass(frozen=True, kw_only=True)
class HumanEvalPlus(HumanEval):
    """Prompted as HumanEval; what is expected is what the data's own solution returns, found out once a run."""

    async def score(self, problem: Problem, exchange: Exchange, tools: Tools) -> Score:
        """1 when every old and new input gives what the reference gives."""
        code = self.code(problem, exchange)
        if code is None:
            return Score(0.0, "no code")
        truth = await self._truth(problem, tools)
        score = await judged(plus.program(problem.row, code, truth), tools)
        return Score(**{**vars(score), "program": code})

    async def _truth(self, problem: Problem, tools: Tools) -> bytes:
        key = f"{self.name}/{problem.id}"
        verdict = await tools.run_once(key, lambda: plus.reference(problem.row))
        if not verdict.passed:
            raise ServiceError(
                f"the reference solution of {problem.id} failed here ({verdict.reason}): {verdict.detail}"
            )
        return verdict.stdout


@dataclass(frozen=True, kw_only=True)
class MbppPlus(HumanEvalPlus):
    """The prompt is a docstring with the task and one assertion."""

    def problems(self, data: Data) -> Iterable[Problem]:
        """One for each row."""
        (source,) = self.sources
        return (Problem(row["task_id"], row) for row in data.rows(source))

    def prompt(self, problem: Problem, style: Style) -> Ask:
        """The docstring."""
        text = problem.row["prompt"]
        if style == "chat":
            return Chat.of(_INSTRUCTION.format(prompt=text.strip()))
        return Complete(text, Decoding(768, stop=_STOPS))

    def code(self, problem: Problem, exchange: Exchange) -> str | None:
        """The function and what it needs."""
        prompt, reply = str(problem.row["prompt"]), exchange.reply.text
        if not is_chat(exchange):
            return prompt + cut(reply, _STOPS)
        return snippets.function(reply, prompt, problem.row["entry_point"])

    def canonical(self, problem: Problem, style: Style) -> str:
        """The data's own function."""
        code: str = problem.row["canonical_solution"]
        return fenced(code) if style == "chat" else code


TASKS = (
    HumanEvalPlus(
        name="humaneval-plus",
        title="HumanEval+",
        sources=(
            Source(
                "humaneval-plus/HumanEvalPlus.jsonl.gz",
                _RELEASES.format("humanevalplus", "v0.1.10/HumanEvalPlus.jsonl.gz"),
            ),
        ),
    ),
    MbppPlus(
        name="mbpp-plus",
        title="MBPP+",
        sources=(
            Source("mbpp-plus/MbppPlus.jsonl.gz", _RELEASES.format("mbppplus", "v0.2.0/MbppPlus.jsonl.gz")),
        ),
    ),
)
