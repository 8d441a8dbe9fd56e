"""The Java method around a line: from its annotations to its closing brace."""

import re
from dataclasses import dataclass

from coderv2.errors import BadData

_SKIPPED = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)
_HEAD = re.compile(r"(?:^|[;{}])\s*((?:@\w+(?:\([^()]*\))?\s*)*[^;{}=]*\([^;{}]*\)[^;{}=()]*)$")
_TYPE = re.compile(r"\b(class|interface|enum|record|new)\b")
_KEYWORD = re.compile(r"^\s*(?:else\s+)?(if|for|while|switch|catch|synchronized|try|do|return)\b")


@dataclass(frozen=True)
class Method:
    """A method, by characters of its file."""

    start: int
    end: int
    text: str


def around(source: str, line: int) -> Method:
    """The method that holds a line (from 1). Raises BadData where none does."""
    plain = _SKIPPED.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), source)
    place = sum(len(text) + 1 for text in source.split("\n")[: line - 1])
    for opening in reversed(_open_braces(plain, place)):
        head = _HEAD.search(plain[:opening])
        if head and not _TYPE.search(head.group(1)) and not _KEYWORD.search(head.group(1)):
            end = _closing(plain, opening) + 1
            return Method(head.start(1), end, source[head.start(1) : end])
    raise BadData(f"no method around line {line}")


def _open_braces(plain: str, place: int) -> list[int]:
    """Braces that are open at a place, or that the place's own line opens, outermost first."""
    line_end = plain.find("\n", place)
    found: list[int] = []
    for at, letter in enumerate(plain[: line_end if line_end >= 0 else len(plain)]):
        if letter == "{":
            found.append(at)
        elif letter == "}" and found and at < place:
            found.pop()
    return found


def _closing(plain: str, opening: int) -> int:
    depth = 0
    for at in range(opening, len(plain)):
        depth += (plain[at] == "{") - (plain[at] == "}")
        if depth == 0:
            return at
    raise BadData("a brace is never closed")
