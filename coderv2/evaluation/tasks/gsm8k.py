"""GSM8K (Cobbe et al. 2021): 1,319 school problems whose answer is a number."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from coderv2.evaluation import worked
from coderv2.evaluation.asking import Problem
from coderv2.evaluation.data import Data, Row, Source
from coderv2.text import answers

_ORIGIN = "https://github.com/openai/grade-school-math/raw/3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data/"
_TEST = Source("gsm8k/test.jsonl.gz", f"{_ORIGIN}test.jsonl")
_TRAIN = Source("gsm8k/train.jsonl.gz", f"{_ORIGIN}train.jsonl")
_SHOTS = 8


@dataclass(frozen=True, kw_only=True)
class Gsm8k(worked.Worked):
    """Base models see the first eight training problems, without the calculator's marks."""

    def problems(self, data: Data) -> Iterable[Problem]:
        """The test split."""
        shots = worked.shots([_worked(row) for row in data.rows(_TRAIN)[:_SHOTS]])
        for number, row in enumerate(data.rows(_TEST)):
            answer = row["answer"].rpartition("####")[2].strip().replace(",", "")
            yield Problem(f"gsm8k/{number}", {"question": row["question"], "answer": answer, "shots": shots})


def _worked(row: Row) -> tuple[str, str]:
    reasoning, _, answer = re.sub(r"<<.*?>>", "", row["answer"]).rpartition("####")
    return row["question"], f"{reasoning.strip()} The answer is {answer.strip()}."


TASKS = (
    Gsm8k(
        name="gsm8k",
        title="GSM8K",
        sources=(_TEST, _TRAIN),
        extract=answers.final_number,
        equal=answers.same_number,
    ),
)
