"""Multiple choice: a base model weighs the options after worked examples, a chat model names a letter."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from coderv2.evaluation.asking import Ask, Chat, Choose, Decoding, Exchange, Problem, Style
from coderv2.evaluation.task import Score, Scored, Tools, verdict

LETTERS = "ABCDEFGHIJ"
_REASONED = Decoding(max_tokens=2048)


@dataclass(frozen=True)
class Question:
    """One question as every such benchmark has it."""

    text: str
    options: tuple[str, ...]
    answer: int
    """Which option is right."""

    @property
    def letter(self) -> str:
        """Of the right option."""
        return LETTERS[self.answer]


@dataclass(frozen=True)
class Layout:
    """The words around a question, in the benchmark's language."""

    header: str = ""
    """In front of the worked examples; may name the subject: {group}."""
    question: str = "{text}"
    option: str = "{letter}. {text}"
    cue: str = "Answer:"
    by_letter: bool = True
    """Whether a base model weighs letters, or the options' own texts (which are not listed then)."""
    instruction: str = (
        "Answer the following multiple choice question. The last line of your response should be of the following "
        "format: 'Answer: X' (without quotes), where X is one of {letters}. Think step by step before answering."
    )

    def asked(self, question: Question) -> str:
        """Question, options where they are listed, and the cue for the answer."""
        listed = [
            self.option.format(letter=l, text=o) for l, o in zip(LETTERS, question.options, strict=False)
        ]
        lines = [self.question.format(text=question.text), *(listed if self.by_letter else ()), self.cue]
        return "\n".join(lines)

    def weighed(self, question: Question) -> tuple[str, ...]:
        """What a base model weighs after the cue."""
        if self.by_letter:
            return tuple(f" {letter}" for letter in LETTERS[: len(question.options)])
        return tuple(f" {option}" for option in question.options)


@dataclass(frozen=True, kw_only=True)
class MultipleChoice(Scored):
    """`problem.row` holds the `question`, and its `shots`: questions with known answers."""

    layout: Layout = Layout()

    def prompt(self, problem: Problem, style: Style) -> Ask:
        """Chat: no examples, reasoning first. Base: the examples, then the options to weigh."""
        question: Question = problem.row["question"]
        if style == "chat":
            return Chat.of(self.in_words(question), _REASONED)
        return Choose(self.context(problem), self.layout.weighed(question))

    def in_words(self, question: Question) -> str:
        """For a chat model."""
        layout, letters = self.layout, LETTERS[: len(question.options)]
        listed = [f"{letter}) {text}" for letter, text in zip(letters, question.options, strict=True)]
        return "\n\n".join([layout.instruction.format(letters=letters), question.text, "\n".join(listed)])

    def context(self, problem: Problem) -> str:
        """For a base model: header, worked examples, question."""
        shots: Sequence[Question] = problem.row.get("shots", ())
        worked = [self.layout.asked(shot) + self.layout.weighed(shot)[shot.answer] for shot in shots]
        header = self.layout.header.format(group=problem.group.replace("_", " "))
        return "\n\n".join(
            [*([header] if header else []), *worked, self.layout.asked(problem.row["question"])]
        )

    async def score(self, problem: Problem, exchange: Exchange, tools: Tools) -> Score:
        """Right letter or not; weighed options also with their length made up for (acc_norm)."""
        question: Question = problem.row["question"]
        if isinstance(exchange.ask, Chat):
            found = letters(exchange.reply.text, len(question.options))
            return verdict(found == question.letter, found)
        right = self.layout.weighed(question)[question.answer]
        chosen = exchange.reply.text
        others = {"acc_norm": float(_normalised(exchange) == right)} if exchange.reply.logprobs else {}
        return verdict(chosen.strip() == right.strip(), chosen.strip(), others=others)

    def canonical(self, problem: Problem, style: Style) -> str:
        """The right letter, in a sentence or as the option that is weighed."""
        question: Question = problem.row["question"]
        if style == "chat":
            return self.layout.cue + f" {question.letter}"
        return self.layout.weighed(question)[question.answer]


def letters(text: str, count: int) -> str:
    """The letter that a chat model settled on, of the first `count`, in English or Chinese; or several (ABD), or none.

    The last match of the best pattern: a letter that merely stands somewhere (A prime number …) is no answer.
    """
    for pattern in _patterns(count):
        if found := pattern.findall(text):
            return re.sub("[^A-J]", "", found[-1].upper())
    return ""


@cache
def _patterns(count: int) -> tuple[re.Pattern[str], ...]:
    letter = f"[{LETTERS[:count]}]"
    chosen = rf"[\s*$(（“\"'{{]*({letter}(?:(?:\s?[,、]\s?)?{letter})*)(?![A-Za-z0-9])"
    return tuple(
        re.compile(pattern)
        for pattern in (
            rf"(?i)(?:answer|答案)\**\s*[:：]{chosen}",
            rf"(?:(?i:answer|option|choice)\s+(?i:is)|答案(?:应该?)?[是为选])\s*[:：]?{chosen}",
            rf"(?:选(?!项)择?|选项[是为])\s*[:：]?{chosen}",
            rf"\\boxed\{{(?:\s*\\text)?{chosen}",
            rf"^\W*({letter}+)(?:\W*$|[).:、．：])",  # nothing else, or the option's text after it
        )
    )


def _normalised(exchange: Exchange) -> str:
    """The option that is likeliest per byte."""
    ask, weights = exchange.ask, exchange.reply.logprobs
    assert isinstance(ask, Choose)
    per_byte = [w / len(o.encode()) for w, o in zip(weights, ask.options, strict=True)]
    return ask.options[max(range(len(per_byte)), key=per_byte.__getitem__)]
