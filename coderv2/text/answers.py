"""Final answers of worked replies, and whether two of them are equal."""

import re
from decimal import Decimal

from coderv2.text import symbolic

_BOX = re.compile(r"\\(?:boxed|fbox)\s*")
_NUMBER = re.compile(r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/[1-9]\d*)?|\.\d+)")
_SAID = re.compile(r"(?:answer\s*(?:is\s*:?|:)|####|答案(?:是|为|：|:))\s*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=\.)\s+(?=[A-Z])|(?<=。)")
_EDGES = re.compile(r"^(?:\s|\*\*)+|(?:\s|\*\*|[.。])+$")
_SPACING = re.compile(r"\\left|\\right|\\[,;: ]|\\quad|\\noindent|\\displaystyle|\\\\|~|\s+")
_IN_NUMBER = re.compile(r"\\!|(?<=\d)(?:\\[,;: ]|~)(?=\d{3}(?!\d))")
_SIGNS = re.compile(r"\\?[$%]|[€£¥°]|\^\{?\\circ\}?")
_POWER = re.compile(r"(?<=[A-Za-z}])\^\{?-?\d+\}?")
# Words that change a number's value are no units: 2i, 5 million, 3 sin x.
_NO_UNIT = (
    r"(?!\s*(?:i|e|and|or|pi|sin|cos|tan|cot|log|exp|sqrt|dozens?|(?:hundred|thousand|million|billion)s?)\b)"
)
_UNIT = re.compile(rf"(?<=\d)\s*\\(?:text|mbox|mathrm)\{{{_NO_UNIT}[^{{}}]*\}}(?:\^\{{?-?\d+\}}?)?$")
_MEASURED = re.compile(rf"({_NUMBER.pattern})(?:\s+{_NO_UNIT}[A-Za-z]{{3,}}|\s*[\u4e00-\u9fff])*")
_WORDS = re.compile(r"\\(?:text|mbox|textbf|mathrm)\{([^{}]*)\}")
_UPRIGHT = re.compile(r"\\(?:text|mathrm)\{\s*([ie])\s*\}")  # a number, and no unit
_SHORT_FRACTION = re.compile(r"\\frac(?:(\d)|\{([^{}]*)\})(?:(\d)|\{([^{}]*)\})")
_PLAIN_FRACTION = re.compile(r"(?<!\d)\\frac\{(\d+)\}\{(\d+)\}")
_TOLERANCE = Decimal("1e-3")  # of two decimals, relative


def final_answer(reply: str) -> str:
    """What a worked reply ends with: its last box, else what follows "answer is" or ####, else its last number."""
    if box := boxed(reply):
        return box
    said = _SAID.split(reply)
    if len(said) > 1 and (line := said[-1].strip().split("\n")[0].strip()):
        return _SENTENCE_END.split(line)[0]
    return next(iter(_numbers(reply)[-1:]), "")


def final_number(reply: str) -> str:
    """The number that a reply ends with: the last of its final answer, without commas; nothing where it has none.

    A fraction counts as one number, the power of a unit as none.
    """
    found = _numbers(final_answer(reply)) or _numbers(reply)
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
    """The number that an answer is, signs of money, commas, units and a full stop aside; None for all else (3x)."""
    measured = _MEASURED.fullmatch(_in_line(answer))
    return _value(measured[1]) if measured else None


def same_number(gold: str, answer: str) -> bool:
    """Whether both hold the same number, 12 and 12.0 alike."""
    ours, theirs = number(gold), number(answer)
    return ours is not None and ours == theirs


def equal(gold: str, answer: str) -> bool:
    """Whether an answer is the wanted one: written alike, or the same number, set, interval, formula.

    Formulas are compared by math-verify, which is not symmetric: what is wanted comes first.
    """
    gold, answer = _UPRIGHT.sub(r"\1", gold), _UPRIGHT.sub(r"\1", answer)
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
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", re.sub(r"\s", "", _bare(answer)))


def _bare(answer: str) -> str:
    """`normal`, but for the spaces between words and the commas in numbers."""
    text = _SIGNS.sub("", _IN_NUMBER.sub("", answer.replace("{,}", ",")))
    text = _EDGES.sub("", _SPACING.sub(" ", text))
    text = _WORDS.sub(r"\1", _UNIT.sub("", text)).replace("dfrac", "frac").replace("tfrac", "frac")
    text = _SHORT_FRACTION.sub(lambda m: rf"\frac{{{m[1] or m[2]}}}{{{m[3] or m[4]}}}", text)
    return re.sub(r"^[A-Za-z]\s*=\s*(?=.)", "", _EDGES.sub("", text))


def _numbers(text: str) -> list[str]:
    return _NUMBER.findall(_POWER.sub("", _in_line(text)))


def _in_line(text: str) -> str:
    return _PLAIN_FRACTION.sub(r"\1/\2", _bare(text))


def _value(text: str) -> Decimal:
    top, _, bottom = text.replace(",", "").partition("/")
    return Decimal(top) / Decimal(bottom) if bottom else Decimal(top)


def _balanced(text: str) -> str | None:
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return text[1:place]
    return None
