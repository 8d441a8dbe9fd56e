"""Short answers that are compared as text: worked examples, a question, what the model writes up to a stop."""

import re
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from coderv2.evaluation.asking import Ask, Chat, Complete, Decoding, Exchange, Problem, Style
from coderv2.evaluation.task import Score, Scored, Tools, verdict

_TO_LINE_END = Decoding(max_tokens=64, stop=("\n",))
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation + "‘’“”´")


def plain(text: str) -> str:
    """Lower case without punctuation, articles and double spaces, as question answering has compared since SQuAD.

    Text of which nothing would be left ("A", "...") stays as it is.
    """
    lower = text.lower().strip()
    return " ".join(_ARTICLES.sub(" ", lower.translate(_PUNCTUATION)).split()) or lower


def first_line(text: str) -> str:
    """The first line that is not blank."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


@dataclass(frozen=True, kw_only=True)
class Written(Scored):
    """`problem.row` holds `question`, `answers` (any of which is right) and the text of the `shots` in front."""

    metric: str = "exact match"
    decoding: Decoding = _TO_LINE_END
    layout: str = "Q: {question}\nA:"
    instruction: str = "Answer with a few words and nothing else, as in the examples."
    extract: Callable[[str], str] = first_line
    normal: Callable[[str], str] = plain

    def prompt(self, problem: Problem, style: Style) -> Ask:
        """The examples, then the question; a chat model is told what to do with them."""
        text = problem.row["shots"] + self.layout.format(question=problem.row["question"])
        if style == "chat":
            # A chat model may begin with an empty line.
            decoding = Decoding(
                self.decoding.max_tokens, stop=tuple(s for s in self.decoding.stop if s.strip())
            )
            return Chat.of(f"{self.instruction}\n\n{text}", decoding)
        return Complete(text, self.decoding)

    async def score(self, problem: Problem, exchange: Exchange, tools: Tools) -> Score:
        """Equal to one of the answers, once both are normal."""
        answer = self.extract(exchange.reply.text)
        return verdict(self.normal(answer) in self.accepted(problem.row["answers"]), answer)

    def accepted(self, answers: Iterable[str]) -> set[str]:
        """What counts as right. An answer of nothing but punctuation would accept an empty reply."""
        return {self.normal(answer) for answer in answers} - {""}

    def canonical(self, problem: Problem, style: Style) -> str:
        """The first answer that does not normalise to nothing."""
        return next(f" {answer}" for answer in problem.row["answers"] if self.normal(answer))
