"""Answers judged by another model, which sits behind an endpoint of its own.

Scores depend on the judge as much as on the judged: the report names it, and numbers of two judges are not to be
compared.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from coderv2.errors import ContextTooLong
from coderv2.evaluation.asking import Chat, Decoding, Place, Style
from coderv2.evaluation.score import Item, Unmeasured
from coderv2.evaluation.task import TOO_LONG, Attempt, Score, Scored, Tools
from coderv2.text.chat import Message

TOO_LONG_TO_JUDGE = "too long for the judge"
SILENT = ("no rating", "no verdict", TOO_LONG, TOO_LONG_TO_JUDGE)
"""Reasons of answers that no judge's reply says anything of."""


@dataclass(frozen=True, kw_only=True)
class Refereed(Scored):
    """What these tasks share: a chat model answers, a judging model is needed."""

    refereed: bool = True
    styles: tuple = ("chat",)  # type: ignore[type-arg]

    async def attempt(self, place: Place, style: Style, tools: Tools) -> Attempt:
        """Asks and has it judged; what the judge has no room for says nothing of the reply, which is kept."""
        exchange = await self.exchange(place, style, tools)
        try:
            score = await self.score(place.problem, exchange, tools)
        except ContextTooLong as error:
            score = Score(0.0, TOO_LONG_TO_JUDGE, str(error))
        return Attempt(exchange, score)


def judgement(system: str, text: str, *, max_tokens: int = 4096) -> Chat:
    """What the judging model is asked, greedily."""
    start = [Message("system", system)] if system else []
    return Chat((*start, Message("user", text)), Decoding(max_tokens))


def judged(items: Sequence[Item]) -> list[Item]:
    """Those of which the judge said something that counts. Raises Unmeasured where there are none."""
    found = [item for item in items if item.reason not in SILENT]
    if not found:
        raise Unmeasured(f"none of {len(items)} answers has a rating or verdict of the judge's")
    return found


async def last_match(tools: Tools, ask: Chat, patterns: Sequence[str]) -> tuple[str, str]:
    """The judge's reply, and what the first pattern that matches found last in it; nothing where none does."""
    reply = (await tools.referee(ask)).text
    for pattern in patterns:
        if found := re.findall(pattern, reply):
            return reply, str(found[-1])
    return reply, ""
