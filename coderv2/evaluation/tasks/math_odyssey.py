"""Math Odyssey: 387 problems from high school, competitions and universities."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from coderv2.evaluation import worked
from coderv2.evaluation.asking import Problem
from coderv2.evaluation.data import Data, Source
from coderv2.text import answers

_SOURCE = Source(
    "math-odyssey/final-odyssey-math-with-levels.jsonl.gz",
    "https://github.com/protagolabs/odyssey-math/raw/fe9e83df06111728e1b06ddaee0a60837c07d6c9/final-odyssey-math-with-levels.jsonl",
)
_DEBRIS = re.compile(r"\\(?:begin|end)\{(?:problem|solution)\}|\\noindent")


@dataclass(frozen=True, kw_only=True)
class Odyssey(worked.Worked):
    """Questions and answers carry leftovers of the LaTeX file that they were cut from."""

    def problems(self, data: Data) -> Iterable[Problem]:
        """Each line holds one problem under its name."""
        for line in data.rows(_SOURCE):
            ((name, row),) = line.items()
            fields = {"question": cleaned(row["question"]), "answer": cleaned(row["answer"]).strip("$ ")}
            yield Problem(name, fields, row["level"])


def cleaned(text: str) -> str:
    """Without the debris, and without line breaks at the end."""
    return re.sub(r"(?:\\\\|\s)+$", "", _DEBRIS.sub("", text).strip())


TASKS = (
    Odyssey(
        name="math-odyssey",
        title="Math Odyssey",
        sources=(_SOURCE,),
        extract=answers.final_answer,
        equal=answers.equal,
        formulas=True,
    ),
)
