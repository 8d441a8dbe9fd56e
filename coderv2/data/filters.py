"""Rules on one document: a reason to drop it, or nothing.

The thresholds on line length and alphabetic share are those of the paper (section 2); the others keep
tables and generated files from filling a small corpus.
"""

import ast
import re
import warnings
from collections.abc import Callable, Iterable, Iterator

from coderv2.data.document import Document
from coderv2.data.pipeline import Stage, matching

Rule = Callable[[str], str | None]
"""Text to the reason for dropping it, or None."""

MAX_MEAN_LINE = 100
MAX_LINE = 1000
MIN_ALPHABETIC = 0.25
MAX_DIGITS = 0.15
MIN_CHARACTERS = 200

_GENERATED = re.compile(r"(?i)(auto-?generated|automatically generated|generated (by|from)|do not edit)")


def apply(*rules: Rule) -> Stage:
    """A stage that drops a document at the first rule with a reason."""

    def stage(documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            found = next((reason for rule in rules if (reason := rule(document.text))), None)
            yield document if found is None else document.drop(found)

    return stage


def outside(*patterns: str) -> Stage:
    """A stage that drops documents whose id matches one of the regular expressions."""
    excluded = matching(*patterns)

    def stage(documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            yield document.drop("excluded path") if excluded(document) else document

    return stage


def line_lengths(text: str) -> str | None:
    lines = text.splitlines() or [""]
    if max(map(len, lines)) > MAX_LINE:
        return f"a line over {MAX_LINE} characters"
    if sum(map(len, lines)) / len(lines) > MAX_MEAN_LINE:
        return f"lines over {MAX_MEAN_LINE} characters on average"
    return None


def alphabetic(text: str) -> str | None:
    share = sum(map(str.isalpha, text)) / max(len(text), 1)
    return f"under {MIN_ALPHABETIC:.0%} alphabetic" if share < MIN_ALPHABETIC else None


def tables(text: str) -> str | None:
    share = sum(map(str.isdigit, text)) / max(len(text), 1)
    return f"over {MAX_DIGITS:.0%} digits" if share > MAX_DIGITS else None


def too_short(text: str) -> str | None:
    return f"under {MIN_CHARACTERS} characters" if len(text.strip()) < MIN_CHARACTERS else None


def generated(text: str) -> str | None:
    return "generated file" if _GENERATED.search(text[:1000]) else None


def parses(text: str) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return "does not parse as Python"
    return None


CODE_RULES: tuple[Rule, ...] = (too_short, line_lengths, alphabetic, tables, generated, parses)
