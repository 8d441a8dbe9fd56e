"""A chat reply in another language, fitted between the prompt and the tests of a translated HumanEval problem.

The tests close what the prompt opened (a function, a class), so what is wanted is the function's body as if the
model had
gone on from the prompt. Helpers that the reply defines are put in front of the function, imports at the top.
"""

import re
from dataclasses import dataclass

_IMPORTS = re.compile(r"\s*(import|using|use|#include|#lang|require|library|package)\b.*")
_CLASS = re.compile(r"\s*(public\s+|static\s+|final\s+)*class\s+\w+\s*\{?\s*")
_MAIN = re.compile(r"\bmain\s*\(")


@dataclass(frozen=True)
class Header:
    """Where the prompt ends: the line that opens the function."""

    before: str
    line: str
    after: str
    """Of the prompt, below that line: white space, or the rest of the header."""
    name: str

    @classmethod
    def of(cls, prompt: str) -> "Header":
        """The last line of the prompt that looks like the head of a function."""
        lines = prompt.splitlines(keepends=True)
        for number in range(len(lines) - 1, -1, -1):
            name = function_name(lines[number])
            if name:
                return cls("".join(lines[:number]), lines[number], "".join(lines[number + 1 :]), name)
        raise ValueError("the prompt has no function head")


def function_name(line: str) -> str:
    """The function that a line opens, in any of the languages; nothing for a comment or another line."""
    text = line.strip()
    if not text or text.startswith(("//", "#", "--", ";", "*", ">>>")):
        return ""
    found = re.search(r"\(define \(([^\s()]+)", text) or re.search(
        r"([\w$]+)\s*(?:<-\s*function\s*)?\(", text
    )
    return found.group(1) if found else ""


def program(prompt: str, block: str, stops: tuple[str, ...]) -> str:
    """The prompt and the body that the block gives its function, cut at the first stop as a base model's would be."""
    header = Header.of(prompt)
    lines = block.splitlines(keepends=True)
    place = _place(lines, header)
    if place is None:  # a body alone
        return prompt + _cut(block, stops)
    shift = _indent(header.line) - _indent(lines[place])
    body = "".join(_shifted(line, shift) for line in lines[place + 1 :])
    imports, helpers = _sorted_out(lines[:place], prompt)
    return _with_imports(header.before, imports) + helpers + header.line + header.after + _cut(body, stops)


def _place(lines: list[str], header: Header) -> int | None:
    """Where the block opens the function."""
    wanted = re.sub(r"\s", "", header.line)
    same = [i for i, line in enumerate(lines) if re.sub(r"\s", "", line) == wanted]
    alike = [
        i
        for i, line in enumerate(lines)
        if function_name(line) == header.name and line.rstrip()[-1] not in ";,"
    ]
    return next(iter(same or alike), None)


def _sorted_out(lines: list[str], prompt: str) -> tuple[list[str], str]:
    """Imports that the prompt lacks, and all else that it lacks; a class around everything is the prompt's business."""
    known = {line.strip() for line in prompt.splitlines()}
    new = [line for line in lines if line.strip() not in known and not _CLASS.fullmatch(line.rstrip("\n"))]
    imports = [line for line in new if _IMPORTS.fullmatch(line.rstrip("\n"))]
    return imports, "".join(line for line in new if line not in imports)


def _with_imports(before: str, imports: list[str]) -> str:
    first, rest = before.partition("\n")[::2]
    if first.startswith(("<?php", "#lang", "#!", "package")):  # must stay the first line
        return f"{first}\n{''.join(imports)}{rest}"
    return "".join(imports) + before


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _shifted(line: str, by: int) -> str:
    return (
        " " * by + line if by >= 0 and line.strip() else line[min(-by, _indent(line)) :] if by < 0 else line
    )


def _cut(text: str, stops: tuple[str, ...]) -> str:
    ends = [place for stop in stops if (place := ("\n" + text).find(stop)) >= 0]
    return ("\n" + text)[1 : min(ends, default=len(text) + 1)]
