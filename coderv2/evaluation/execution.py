"""Replies that are programs: taken out of the reply, put together with the tests, run in the sandbox."""

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from coderv2.errors import Unsupported
from coderv2.evaluation.asking import Chat, Exchange, Problem
from coderv2.evaluation.score import Figures, Item, pass_rate
from coderv2.evaluation.task import Score, Scored, Tools
from coderv2.evaluation.toolbox import missing
from coderv2.sandbox.judge import Program
from coderv2.sandbox.limits import DEFAULTS, Limits
from coderv2.text import snippets

WAITING = 4  # times its processor time a program may take on the wall: that is for those that sleep


def within(seconds: float, limits: Limits = DEFAULTS) -> Limits:
    """So much processor time, so that a busy machine does not turn right answers into late ones."""
    return replace(limits, seconds=WAITING * seconds, cpu_seconds=math.ceil(seconds))


LIMITS = within(10.0)


def cut(text: str, stops: Iterable[str]) -> str:
    """The text up to the first of the stops: a file of answers may hold more than a model that was stopped there."""
    ends = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))]


def fenced(code: str, language: str = "python") -> str:
    """Code as a chat model gives it."""
    return f"```{language}\n{code.rstrip()}\n```"


def last_block(reply: str) -> str | None:
    """What stands in the last code block: contest answers come after drafts."""
    found = [block.code for block in snippets.blocks(reply)]
    return found[-1] if found else None


def solution(problem: Problem) -> str:
    """The row's own, which some benchmarks keep to themselves and some copies add. Raises Unsupported without one."""
    try:
        return str(problem.row["canonical_solution"])
    except KeyError:
        raise Unsupported(
            f"its data brings no solution of {problem.id}, so there are no canonical answers"
        ) from None


@dataclass(frozen=True, kw_only=True)
class Executed(Scored):
    """Passes when its program runs through all tests."""

    metric: str = "pass@1"
    language: str = "python"
    """As the sandbox calls it."""

    @abstractmethod
    def code(self, problem: Problem, exchange: Exchange) -> str | None:
        """The program that the reply stands for, without tests; None: there is none in it."""

    @abstractmethod
    def program(self, problem: Problem, code: str) -> Program:
        """That program with its tests."""

    async def score(self, problem: Problem, exchange: Exchange, tools: Tools) -> Score:
        """1 when all tests pass."""
        code = self.code(problem, exchange)
        if code is None:
            return Score(0.0, "no code")
        return await judged(self.program(problem, code), tools)

    def lacks(self) -> str | None:
        """The language's compiler or interpreter."""
        return missing(self.language)

    def figures(self, items: Sequence[Item]) -> Figures:
        """pass@k for every k that the samples allow."""
        return pass_rate(items, self.metric)


async def judged(program: Program, tools: Tools) -> Score:
    """A program's verdict as a score."""
    verdict = await tools.run(program)
    reason = "passed" if verdict.passed else verdict.reason
    return Score(
        float(verdict.passed), reason, verdict.detail, program=program.source, seconds=verdict.seconds
    )


def is_chat(exchange: Exchange) -> bool:
    """Whether the reply is a message rather than text that goes on."""
    return isinstance(exchange.ask, Chat)
