"""Final answers of worked replies, and whether two of them are equal."""

import re
from decimal import Decimal

from coderv2.text import symbolic

_BOX = re.compile(r"\\(?:boxed|fbox)\s*")
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+]?\.\d+")
_SAID = re.compile(r"(?:answer\s*(?:is|:)|####|答案(?:是|为|：|:))\s*", re.IGNORECASE)
_SPACING = re.compile(r"\\left|\\right|\\[!,;: ]|\\quad|\\noindent|\\displaystyle|\\\\|~|\s+")
_SIGNS = re.compile(r"\\?\$|\\?%|\^\{?\\circ\}?")
_WORDS = re.compile(r"\\(?:text|mbox|textbf|mathrm)\{([^{}]*)\}")
_SHORT_FRACTION = re.compile(r"\\frac(?:(\d)|\{([^{}]*)\})(?:(\d)|\{([^{}]*)\})")
_TOLERANCE = Decimal("1e-3")  # of two decimals, relative


def final_answer(reply: str) -> str:
    """What a worked reply ends with: its last box, else what follows "answer is" or ####, else its last number."""
    if box := boxed(reply):
        return box
    said = _SAID.split(reply)
    if len(said) > 1 and (line := said[-1].strip().split("\n")[0].strip()):
        return line
    return next(iter(_NUMBER.findall(reply)[-1:]), "")


def final_number(reply: str) -> str:
    """The number that a reply ends with: the last of its final answer, without commas; nothing where it has none."""
    found = _NUMBER.findall(_SIGNS.sub("", final_answer(reply))) or _NUMBER.findall(reply)
    return found[-1].replace(",", "") if found else ""


def boxed(reply: str) -> str:
    r"""What stands in the last \boxed{…} or \fbox{…}, braces matched, or after the last `\boxed `; else nothing."""
    for box in reversed(list(_BOX.finditer(reply))):
        rest = reply[box.end() :]
        inside = _balanced(rest) if rest.startswith("{") else re.split(r"[\s$]", rest, maxsplit=1)[0]
        if inside:
            return inside.strip()
    return ""


def number(answer: str) -> Decimal | None:
    """The one number that an answer holds beside signs of money, commas, units and a full stop; else None."""
    found = _NUMBER.findall(answer)
    if len(found) != 1 or re.search(r"[\\^_{}()\[\]/=]", normal(answer)):
        return None
    return Decimal(found[0].replace(",", ""))


def same_number(gold: str, answer: str) -> bool:
    """Whether both hold the same number, 12 and 12.0 alike."""
    ours, theirs = number(gold), number(answer)
    return ours is not None and ours == theirs


def equal(gold: str, answer: str) -> bool:
    """Whether an answer is the wanted one: written alike, or the same number, set, interval, formula.

    Formulas are compared by math-verify, which is not symmetric: what is wanted comes first.
    """
    return alike(gold, answer) or (bool(answer.strip()) and symbolic.equal(gold, answer))


def alike(gold: str, answer: str) -> bool:
    """Whether two answers are written alike but for looks, or are decimals within a thousandth of one another."""
    ours, theirs = normal(gold), normal(answer)
    if ours == theirs:
        return True
    a, b = number(gold), number(answer)
    if a is None or b is None:
        return False
    decimals = "." in gold and "." in answer
    return a == b or (decimals and abs(a - b) <= _TOLERANCE * max(abs(a), abs(b)))


def normal(answer: str) -> str:
    r"""An answer without what only changes its looks: spaces, `\left`, `$`, degrees, units, `x =`, `\dfrac`."""
    text = _SIGNS.sub("", _SPACING.sub("", answer.strip().rstrip("."))).strip()
    text = re.sub(r"(?<=\d)\\(?:text|mbox|mathrm)\{[^{}]*\}$", "", text)
    text = _WORDS.sub(r"\1", text).replace("dfrac", "frac").replace("tfrac", "frac")
    text = _SHORT_FRACTION.sub(lambda m: rf"\frac{{{m[1] or m[2]}}}{{{m[3] or m[4]}}}", text)
    text = re.sub(r"^[A-Za-z]=(?=.)", "", text.rstrip("."))
    text = re.sub(r"^(-?)\\frac\{(\d+)\}\{(\d+)\}$", r"\1\2/\3", text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    return {"0.5": "1/2", ".5": "1/2"}.get(text, text)


def _balanced(text: str) -> str | None:
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return text[1:place]
    return None
