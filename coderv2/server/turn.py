"""An assistant's turn as it comes: text without the template's space, calls taken out, and why it ended."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from coderv2.engine.request import Delta
from coderv2.server.conversation import Conversation
from coderv2.text.toolcalls import Arguments, CallBegun, Piece, Said, ToolCalls


class Turn:
    """One answer to a conversation.

    The space that the model writes after `Assistant:` belongs to the template, not to the answer: it is dropped.
    """

    def __init__(self, conversation: Conversation) -> None:
        self._at_start = not conversation.goes_on
        self._calls = ToolCalls(several=conversation.several) if conversation.callable else None

    def push(self, text: str) -> Sequence[Piece]:
        """What may be told now."""
        if text and self._at_start:
            self._at_start = False
            text = text.removeprefix(" ")
        if self._calls is None:
            return [Said(text)] if text else []
        return self._calls.push(text)

    def finish(self) -> Sequence[Piece]:
        """What was held back."""
        return [] if self._calls is None else self._calls.finish()

    def read(self, delta: Delta) -> list[Piece]:
        """What may be told of it; at the end, also what was held back."""
        return [*self.push(delta.text), *(self.finish() if delta.finish_reason else ())]

    @property
    def called(self) -> bool:
        """True once it calls a function."""
        return self._calls is not None and self._calls.count > 0

    def ended(self, finish_reason: str) -> str:
        """OpenAI's finish_reason."""
        return "tool_calls" if self.called and finish_reason == "stop" else finish_reason


@dataclass
class WholeTurn:
    """A turn put together again."""

    text: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    """Names, and arguments as JSON text."""
    finish_reason: str = ""

    def hear(self, pieces: Iterable[Piece]) -> None:
        """Adds what was told."""
        for piece in pieces:
            match piece:
                case Said(said):
                    self.text += said
                case CallBegun(_, name):
                    self.calls.append((name, ""))
                case Arguments(index, more):
                    name, arguments = self.calls[index]
                    self.calls[index] = (name, arguments + more)

    def arguments(self, place: int) -> dict[str, Any]:
        """Of a call, as an object; empty where it was cut short."""
        try:
            found = json.loads(self.calls[place][1])
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


def whole_turn(conversation: Conversation, text: str, finish_reason: str) -> WholeTurn:
    """The answer's text taken apart."""
    turn, whole = Turn(conversation), WholeTurn()
    whole.hear([*turn.push(text), *turn.finish()])
    whole.finish_reason = turn.ended(finish_reason)
    return whole
