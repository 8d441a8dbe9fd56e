"""MATH (Hendrycks et al. 2021): 5,000 competition problems, by subject and level."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from coderv2.evaluation import worked
from coderv2.evaluation.asking import Problem
from coderv2.evaluation.data import Data, Source
from coderv2.text import answers

_SOURCE = Source(
    "math/test.jsonl.gz",
    how=(
        "its public copy was withdrawn; bring your own as JSON lines with problem, level, type and "
        "solution (5,000 rows)"
    ),
)


@dataclass(frozen=True, kw_only=True)
class Competition(worked.Worked):
    """The answer is what the solution puts into its last box. Base models get no examples: the data brings none."""

    def problems(self, data: Data) -> Iterable[Problem]:
        """One for each row."""
        for number, row in enumerate(data.rows(_SOURCE)):
            fields = {"question": row["problem"], "answer": answers.boxed(row["solution"])}
            level = re.sub(r"\D", "", str(row["level"])) or "?"
            yield Problem(
                str(row.get("unique_id", f"math/{number}")), fields, f"{row['type']}, level {level}"
            )


TASKS = (
    Competition(
        name="math",
        title="MATH",
        sources=(_SOURCE,),
        extract=answers.final_answer,
        equal=answers.equal,
        formulas=True,
    ),
)
