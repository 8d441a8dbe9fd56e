"""Reads calls of functions out of an answer while it is being written: text → pieces of text, and pieces of calls."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from coderv2.text.tools import CLOSE, OPEN

_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
_LONGEST_HEAD = 1024
"""Characters before a call's arguments; what is longer is no call."""


@dataclass(frozen=True)
class Said:
    """Text outside of calls."""

    text: str


@dataclass(frozen=True)
class CallBegun:
    """The `index`-th call names its function."""

    index: int
    name: str


@dataclass(frozen=True)
class Arguments:
    """A piece of the JSON text of a call's arguments."""

    index: int
    text: str


Piece: TypeAlias = Said | CallBegun | Arguments


class ToolCalls:
    """One answer's calls. What looks like a call but is none comes out as the text that it is.

    White space before a call is not said, nor behind the last one; between a call and text it parts that text from
    what was said before. Work per character is constant.
    """

    def __init__(self, *, several: bool = True) -> None:
        """Without `several`, calls after the first are dropped."""
        self.count = 0
        """Calls that have begun."""
        self._several = several
        self._kept = True
        self._held = ""
        self._lead = ""
        """White space and the tag before what may be a call."""
        self._read = self._outside
        self._brackets = _Brackets()

    def push(self, text: str) -> list[Piece]:
        """What this text makes certain."""
        self._held += text
        pieces: list[Piece] = []
        going_on = True
        while going_on:
            found, going_on = self._read()
            pieces += found
        return pieces

    def finish(self) -> list[Piece]:
        """What was held back, when no more comes; after a call, not the head of another that is cut off there."""
        held, self._held = self._held, ""
        if self.count and (self._read == self._head or OPEN.startswith(held.strip())):
            return []
        if self._read == self._head:
            held = self._lead + held
        if not held or self._read == self._behind or (self._read == self._outside and self._dropping(held)):
            return []
        return [Said(held)]

    def _dropping(self, text: str) -> bool:
        return bool(self.count) and (not text.strip() or not self._several)

    # Each returns pieces, and whether there may be more in what is held.

    def _outside(self) -> tuple[list[Piece], bool]:
        before, opened, after = self._held.partition(OPEN)
        if opened:
            said = before.rstrip()
            self._lead = before[len(said) :] + OPEN
            self._held, self._read = after, self._head
            return self._say(said), True
        safe = len(self._held) - _undecided(self._held)
        said, self._held = self._held[:safe], self._held[safe:]
        return self._say(said), False

    def _say(self, text: str) -> list[Piece]:
        return [] if not text or self._dropping(text) else [Said(text)]

    def _head(self) -> tuple[list[Piece], bool]:
        match = _HEAD.match(self._held)
        if match is not None and match.end() <= _LONGEST_HEAD:
            return self._begin(match)
        if CLOSE in self._held or len(self._held) > _LONGEST_HEAD:
            self._read = self._outside
            return self._say(self._lead), True
        return [], False

    def _begin(self, match: re.Match[str]) -> tuple[list[Piece], bool]:
        self._held, self._read, self._brackets = self._held[match.end() :], self._arguments, _Brackets()
        self._kept = self._several or not self.count
        if not self._kept:
            return [], True
        self.count += 1
        return [CallBegun(self.count - 1, _unquoted(match[1]))], True

    def _arguments(self) -> tuple[list[Piece], bool]:
        end = self._brackets.end_in(self._held)
        text = self._held if end is None else self._held[:end]
        self._held = self._held[len(text) :]
        if end is not None:
            self._read = self._behind
        return ([Arguments(self.count - 1, text)] if text and self._kept else []), end is not None

    def _behind(self) -> tuple[list[Piece], bool]:
        _, closed, after = self._held.partition(CLOSE)
        if not closed:
            return [], False
        self._held, self._read = after, self._outside
        return [], True


class _Brackets:
    """Finds the end of a JSON object, piece by piece."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def end_in(self, text: str) -> int | None:
        """The place behind the object's last bracket, if it is in `text`."""
        for place, character in enumerate(text):
            if self._in_string:
                self._inside(character)
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if not self._depth:
                    return place + 1
        return None

    def _inside(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = False


def _undecided(text: str) -> int:
    """Characters at the end that may turn out to stand before a call, or to begin one."""
    stripped = text.rstrip()
    if len(stripped) < len(text):
        return len(text) - len(stripped)
    for length in range(min(len(OPEN) - 1, len(text)), 0, -1):
        if text.endswith(OPEN[:length]):
            before = text[: len(text) - length]
            return len(text) - len(before.rstrip())
    return 0


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        return text.strip('"')


def pieces_of(text: str, *, several: bool = True) -> Iterator[Piece]:
    """All pieces of a finished answer."""
    calls = ToolCalls(several=several)
    yield from calls.push(text)
    yield from calls.finish()
