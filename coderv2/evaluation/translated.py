"""A chat reply in another language, fitted between the prompt and the tests of a translated HumanEval problem.

The tests close what the prompt opened (a function, a class), so what is wanted is the function's body as if the
model had
gone on from the prompt. Helpers that the reply defines are put in front of the function, imports at the top; its own
package and `main` are dropped, since prompt and tests bring theirs.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_IMPORTS = re.compile(r"\s*(import|using|use|#include|#lang|require|library)\b.*")
_IMPORT_GROUP = re.compile(r"(?ms)^import \(\n(.*?)^\)")
_GO_IMPORT = re.compile(r'import\s+(?:(\w+)\s+)?"(?:[\w.-]+/)*([\w.-]+)"\s*')
_PACKAGE = re.compile(r"\s*package\b.*\s*")
_CLASS = re.compile(r"\s*(public\s+|static\s+|final\s+)*class\s+\w+\s*\{?\s*")


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
    lines = _ungrouped(block).splitlines(keepends=True)
    place = _place(lines, header)
    if place is None:  # a body alone
        return prompt + _cut(block, stops)
    shift = _indent(header.line) - _indent(lines[place])
    body = _cut("".join(_shifted(line, shift) for line in lines[place + 1 :]), stops)
    imports, helpers = _sorted_out(lines[:place], prompt)
    imports = [line for line in imports if _is_used(line, helpers + body)]
    return _with_imports(header.before, imports) + helpers + header.line + header.after + body


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
    known = {line.strip() for line in _ungrouped(prompt).splitlines()}
    new = [line for line in lines if line.strip() not in known and not _is_frame(line)]
    imports = [line for line in new if _IMPORTS.fullmatch(line.rstrip("\n"))]
    return imports, "".join(_without_main([line for line in new if line not in imports]))


def _is_frame(line: str) -> bool:
    return bool(_CLASS.fullmatch(line.rstrip("\n")) or _PACKAGE.fullmatch(line))


def _ungrouped(text: str) -> str:
    """Go's imports one by one, so that each can be compared with the prompt's."""
    return _IMPORT_GROUP.sub(
        lambda group: "".join(f"import {l.strip()}\n" for l in group[1].splitlines()), text
    )


def _is_used(line: str, code: str) -> bool:
    """Whether an import must stay: Go compiles no program that has one too many, as when only `main` needed it."""
    found = _GO_IMPORT.fullmatch(line)
    return found is None or re.search(rf"\b{re.escape(found[1] or found[2])}\.", code) is not None


def _without_main(lines: list[str]) -> Iterator[str]:
    """The lines outside of the function `main`, of languages that have braces."""
    depth, is_main = 0, False
    for line, following in zip(lines, [*lines, ""][1:], strict=True):
        if function_name(line).lower() == "main":
            is_main |= "{" in line + following.lstrip()[:1] or line.rstrip().endswith(";")
        if not is_main:
            yield line
            continue
        depth += line.count("{") - line.count("}")
        is_main = depth > 0 or not ("}" in line or line.rstrip().endswith(";"))


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
