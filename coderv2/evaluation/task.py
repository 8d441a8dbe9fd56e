"""A task is three things: data, a prompt for each problem, a score for each reply.

What kinds of task share is in `execution` (programs that are run), `choices`, `written` (short answers), `worked`
(mathematics), `lines` (the next line of code) and `refereed` (judged by another model); a benchmark's file in `tasks/`
fills in the rest.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from coderv2.errors import ContextTooLong
from coderv2.evaluation.asking import Ask, Chat, Exchange, Place, Problem, Reply, Style
from coderv2.evaluation.data import Data, Source
from coderv2.evaluation.score import Figures, Item, mean
from coderv2.sandbox.judge import Program, Verdict

_OWN = (
    "prompt", "question", "passage", "text", "code", "canonical_solution", "problem", "description", "instruction",
    "problem_statement", "patch", "question_content", "turns",
)  # fmt: skip
"""Fields of rows that hold a problem's own words."""
TOO_LONG = "prompt too long for the model"
"""The reason of a problem that the model could not be asked."""


@dataclass(frozen=True)
class Score:
    """What one reply is worth."""

    value: float
    """0 to 1, or a judge's rating."""
    reason: str = "passed"
    """passed, or a few words on why not, which the summary counts."""
    detail: str = ""
    program: str = ""
    """What was run, where something was."""
    answer: str = ""
    """What was taken out of the reply, where nothing is run."""
    others: Mapping[str, float] = field(default_factory=dict)
    """Further figures of the same reply, by metric."""
    kept: Mapping[str, Any] = field(default_factory=dict)
    """What the summary of the whole task needs beside the value."""
    seconds: float = 0.0
    """That the program ran."""

    @property
    def passed(self) -> bool:
        """Whether the reply was right."""
        return self.reason == "passed"


def verdict(right: bool, answer: str = "", **more: Any) -> Score:
    """A score of all or nothing for an answer that was compared."""
    reason = "passed" if right else "wrong answer" if answer else "no answer"
    return Score(float(right), reason, answer=answer, **more)


@dataclass(frozen=True)
class Attempt:
    """One sample: the last exchange and its score."""

    exchange: Exchange
    score: Score


def too_long(ask: Ask, error: ContextTooLong) -> Attempt:
    """The sample of a prompt that leaves the model no room for a reply."""
    return Attempt(Exchange(ask, Reply("", "context")), Score(0.0, TOO_LONG, str(error)))


class Tools(Protocol):
    """What an attempt may use."""

    async def ask(self, ask: Ask, place: Place) -> Reply:
        """The model that is measured."""

    async def referee(self, ask: Chat) -> Reply:
        """The model that judges. Raises Unsupported where none was given."""

    async def run(self, program: Program) -> Verdict:
        """One program in the sandbox. Raises ServiceError when the sandbox itself fails."""

    async def run_once(self, key: str, make: Callable[[], Program]) -> Verdict:
        """The same of a program that would say the same again: one run for all in this suite who ask by its key."""


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A benchmark."""

    name: str
    title: str
    """As the published tables write it."""
    sources: tuple[Source, ...] = ()
    styles: tuple[Style, ...] = ("chat", "base")
    """The prompts it offers, the published protocol's first."""
    metric: str = "accuracy"
    note: str = ""
    """What a reader of the number must know."""
    refereed: bool = False
    """Whether a judging model is needed."""
    measured_by_tokens: bool = False
    """Whether prompts are cut to a number of tokens, so that the model's tokenizer is needed."""

    @abstractmethod
    def problems(self, data: Data) -> Iterable[Problem]:
        """All of them, in the order of the data. Raises BadData."""

    @abstractmethod
    def prompt(self, problem: Problem, style: Style) -> Ask:
        """What the model is asked."""

    @abstractmethod
    def canonical(self, problem: Problem, style: Style) -> str:
        """A reply that must get the full score. Raises Unsupported where the data brings none."""

    def texts(self, problem: Problem) -> Iterable[str]:
        """What is the problem's own: its question and solution, as they would stand in a corpus that holds them.

        Neither the words around it, nor worked examples, tests, and what a judge is told.
        """
        for name in _OWN:
            found = problem.row.get(name, ())
            parts = [found] if isinstance(found, str) else found if isinstance(found, list) else [found]
            yield from (text for part in parts if isinstance(text := getattr(part, "text", part), str))

    def lacks(self) -> str | None:
        """What program is missing on this machine, and how to get it; None when none is."""
        return None

    @abstractmethod
    async def attempt(self, place: Place, style: Style, tools: Tools) -> Attempt:
        """Asks and scores once."""

    def figures(self, items: Sequence[Item]) -> Figures:
        """The task's number from all its samples: the mean over problems, unless the protocol says otherwise."""
        return mean(items, self.metric)


@dataclass(frozen=True, kw_only=True)
class Scored(Task):
    """A benchmark whose replies can be scored by themselves, without what the prompt was made from."""

    @abstractmethod
    async def score(self, problem: Problem, exchange: Exchange, tools: Tools) -> Score:
        """What its reply is worth."""

    async def attempt(self, place: Place, style: Style, tools: Tools) -> Attempt:
        """Asks and scores once."""
        exchange = await self.exchange(place, style, tools)
        return Attempt(exchange, await self.score(place.problem, exchange, tools))

    async def exchange(self, place: Place, style: Style, tools: Tools) -> Exchange:
        """What is scored: the prompt and its reply. Of a talk of several turns the last."""
        ask = self.prompt(place.problem, style)
        return Exchange(ask, await tools.ask(ask, place))
