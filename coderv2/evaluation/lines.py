"""The next line of code: right when it is the author's, white space aside; how near it is beside that."""

from dataclasses import dataclass
from difflib import SequenceMatcher

from coderv2.evaluation.task import Score, Scored, verdict

_COMMENTS = {"python": ("#",), "java": ("//", "/*", "*"), "javascript": ("//", "/*", "*")}


@dataclass(frozen=True, kw_only=True)
class NextLine(Scored):
    """Scored by `compared`; nothing is run."""

    metric: str = "exact match"


def first_code_line(text: str, language: str) -> str:
    """The first line that is neither blank nor a comment."""
    marks = _COMMENTS[language]
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line and not line.startswith(marks)), "")


def compared(line: str, gold: str) -> Score:
    """Exact match, and the similarity of the two lines (`edit similarity`, 0 to 1)."""
    nearness = SequenceMatcher(None, line.strip(), gold.strip()).ratio()
    return verdict(line.split() == gold.split(), line, others={"edit similarity": nearness})
