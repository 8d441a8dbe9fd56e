"""Mathematics: reasoning in words, a final answer in a box, compared as a value rather than as text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coderv2.evaluation.asking import Ask, Chat, Complete, Decoding, Exchange, Problem, Style
from coderv2.evaluation.task import Score, Scored, Tools, verdict
from coderv2.text import symbolic

ENGLISH = "\nPlease reason step by step, and put your final answer within \\boxed{}."
CHINESE = "\n请通过逐步推理来解答问题，并把最终答案放置于\\boxed{}中。"
_REASONED = Decoding(max_tokens=2048)


@dataclass(frozen=True, kw_only=True)
class Worked(Scored):
    """`problem.row` holds `question`, `answer`, and the `shots` of a base model: worked examples as text."""

    extract: Callable[[str], str]
    """The final answer of a reply, or nothing."""
    equal: Callable[[str, str], bool]
    """Whether an answer (second) is what the data says (first)."""
    formulas: bool = False
    """Whether `equal` compares formulas, which takes a package of its own."""
    instruction: str = ENGLISH
    stops: tuple[str, ...] = ("Question:", "\nQ:")

    def lacks(self) -> str | None:
        """The package that compares formulas, where answers are such."""
        return symbolic.lacks() if self.formulas else None

    def prompt(self, problem: Problem, style: Style) -> Ask:
        """Chat: the question and the instruction, no examples. Base: worked examples first."""
        row = problem.row
        if style == "chat":
            return Chat.of(row["question"] + self.instruction, _REASONED)
        text = f"{row.get('shots', '')}Question: {row['question']}\nAnswer:"
        return Complete(text, Decoding(_REASONED.max_tokens, stop=self.stops))

    async def score(self, problem: Problem, exchange: Exchange, tools: Tools) -> Score:
        """Equal in value."""
        answer = self.extract(exchange.reply.text)
        return verdict(bool(answer) and self.equal(problem.row["answer"], answer), answer)

    def canonical(self, problem: Problem, style: Style) -> str:
        """The answer in a box."""
        return f" The final answer is \\boxed{{{problem.row['answer']}}}."


def shots(examples: Sequence[tuple[str, str]]) -> str:
    """Questions and worked answers in the layout of the base prompt."""
    return "".join(f"Question: {question}\nAnswer: {answer}\n\n" for question, answer in examples)
