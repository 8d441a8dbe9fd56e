"""The next line of code: right when it is the author's, white space aside; how near it is beside that."""

import re
from dataclasses import dataclass
from difflib import SequenceMatcher

from coderv2.evaluation.task import Score, Scored, verdict

_C_COMMENTS = r"//[^\n]*|/\*.*?(?:\*/|\Z)"
_COMMENTS = {
    "python": r"#[^\n]*|[rRuU]?(?:\"\"\".*?(?:\"\"\"|\Z)|\'\'\'.*?(?:\'\'\'|\Z))",
    "java": _C_COMMENTS,
    "javascript": _C_COMMENTS,
}


@dataclass(frozen=True, kw_only=True)
class NextLine(Scored):
    """Scored by `compared`; nothing is run."""

    metric: str = "exact match"


def first_code_line(text: str, language: str) -> str:
    """The first line that is neither blank nor within a comment or a docstring."""
    skipped = re.match(rf"(?s)(?:\s|{_COMMENTS[language]})*", text)
    assert skipped
    return text[skipped.end() :].partition("\n")[0].strip()


def compared(line: str, gold: str) -> Score:
    """Exact match, and the similarity of the two lines (`edit similarity`, 0 to 1)."""
    nearness = SequenceMatcher(None, line.strip(), gold.strip()).ratio()
    return verdict(line.split() == gold.split(), line, others={"edit similarity": nearness})
