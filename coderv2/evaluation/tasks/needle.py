"""Needle in a haystack: one sentence, or one constant, hidden at some depth of a long context, and a question about it.

The grid has 16 lengths up to 128K tokens and 11 depths, or those that are asked for. The published haystack was a set
of essays under copyright; ours is made (`haystack`).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from coderv2.errors import BadData
from coderv2.evaluation import haystack
from coderv2.evaluation.asking import Ask, Chat, Complete, Decoding, Exchange, Problem, Style
from coderv2.evaluation.data import Data
from coderv2.evaluation.grid import DEPTHS, LENGTHS
from coderv2.evaluation.task import Score, Scored, Tools, verdict
from coderv2.evaluation.written import first_line
from coderv2.text.chat import Message

_ROOM = 200  # tokens for the question and the answer
_SYSTEM = "You answer questions about a document. Give no information from outside the document."
_NEEDLE = (
    " The best thing to do in San Francisco is to eat a sandwich and sit in Dolores Park on a sunny day."
)
_QUESTION = "What is the best thing to do in San Francisco?"
_KEYWORDS = ("sandwich", "dolores park", "sunny day")
_NAME, _VALUE = "HARBOUR_LANTERN_LIMIT", 48_613


@dataclass(frozen=True, kw_only=True)
class Needle(Scored):
    """The score is the share of the keywords that the answer names; by cell of the grid beside it."""

    metric: str = "found"
    measured_by_tokens: bool = True
    code: bool = False
    lengths: tuple[int, ...] = LENGTHS
    depths: tuple[int, ...] = DEPTHS

    def problems(self, data: Data) -> Iterable[Problem]:
        """Length by length, so that prompts which start alike follow one another; those that the model cannot hold are
        left out."""
        if data.tokenizer is None:
            raise BadData(f"{self.name} measures by tokens: name the model's tokenizer with --tokenizer")
        make = haystack.modules if self.code else haystack.sentences
        within = [length for length in self.lengths if data.context is None or length <= data.context]
        if not within:
            raise BadData(
                f"{self.name}: the model holds {data.context} tokens, the grid begins at {self.lengths[0]}"
            )
        hay = haystack.Haystack(make(within[-1] // 8), data.tokenizer)
        for length in within:
            for depth in self.depths:
                row = {"length": length, "depth": depth, "hay": hay}
                yield Problem(f"{length}/{depth}", row, f"{length} tokens")

    def prompt(self, problem: Problem, style: Style) -> Ask:
        """Document, then question."""
        document, question = self._document(problem), self._question()
        if style == "chat":
            text = f"{document}\n\n{question} Don't give information outside the document."
            return Chat((Message("system", _SYSTEM), Message("user", text)), Decoding(_ROOM // 2))
        return Complete(f"{document}\n\nQuestion: {question}\nAnswer:", Decoding(_ROOM // 2, stop=("\n\n",)))

    async def score(self, problem: Problem, exchange: Exchange, tools: Tools) -> Score:
        """Of a base model's reply the first line counts."""
        text = exchange.reply.text
        answer = (text if isinstance(exchange.ask, Chat) else first_line(text)).lower()
        if self.code:  # 48613, 48,613 or 48_613, and no part of a longer number
            share = float(str(_VALUE) in re.findall(r"\d+", re.sub(r"(?<=\d)[,_](?=\d)", "", answer)))
        else:
            share = sum(word in answer for word in _KEYWORDS) / len(_KEYWORDS)
        return Score(share, verdict(share == 1, answer).reason, answer=answer)

    def canonical(self, problem: Problem, style: Style) -> str:
        """What was hidden."""
        return f" {_VALUE}" if self.code else _NEEDLE

    def _question(self) -> str:
        return f"What is the value of {_NAME}?" if self.code else _QUESTION

    def _document(self, problem: Problem) -> str:
        row = problem.row
        hidden = f"# file: {_NAME.lower()}.py\n{_NAME} = {_VALUE}\n\n\n" if self.code else _NEEDLE
        hay: haystack.Haystack = row["hay"]
        return hay.hiding(hidden, row["length"] - _ROOM, row["depth"] / 100)


TASKS = (
    Needle(name="needle", title="Needle in a haystack"),
    Needle(name="needle-code", title="Needle in a haystack of code", code=True),
)
