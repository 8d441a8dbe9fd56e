"""MMLU (Hendrycks et al. 2021): 14,042 questions on 57 subjects."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from coderv2.evaluation.asking import Problem
from coderv2.evaluation.choices import LETTERS, Layout, MultipleChoice, Question
from coderv2.evaluation.data import Data, Source, parse_csv
from coderv2.evaluation.score import Figures, Item, macro

_SOURCE = Source("mmlu/mmlu.tar.gz", "https://people.eecs.berkeley.edu/~hendrycks/data.tar")


@dataclass(frozen=True, kw_only=True)
class Mmlu(MultipleChoice):
    """Chat: no examples, reasoning first, as in simple-evals. Base: five examples, letters weighed."""

    def problems(self, data: Data) -> Iterable[Problem]:
        """Subject by subject."""
        shots = {_subject(n, "_dev"): _questions(c, n) for n, c in data.members(_SOURCE, "_dev.csv").items()}
        for name, content in data.members(_SOURCE, "_test.csv").items():
            subject = _subject(name, "_test")
            for number, question in enumerate(_questions(content, name)):
                row = {"question": question, "shots": shots[subject][:5]}
                yield Problem(f"{subject}/{number}", row, subject)

    def figures(self, items: Sequence[Item]) -> Figures:
        """Over all questions, as published; the mean over subjects beside it."""
        figures = MultipleChoice.figures(self, items)
        return replace(figures, others={**figures.others, "over subjects": macro(items, "").value})


def _subject(name: str, ending: str) -> str:
    return PurePosixPath(name).stem.removesuffix(ending)


def _questions(content: bytes, name: str) -> list[Question]:
    """Rows of question, four options, answer: its letter, or its number below a line of column names."""
    rows = [row for row in parse_csv(content, name) if row]
    rows = rows[1:] if rows[0][0] == "question" else rows
    return [Question(q, tuple(options), _place(answer)) for q, *options, answer in rows]


def _place(answer: str) -> int:
    return int(answer) if answer.isdecimal() else LETTERS.index(answer)


TASKS = (
    Mmlu(
        name="mmlu",
        title="MMLU",
        sources=(_SOURCE,),
        layout=Layout(header="The following are multiple choice questions (with answers) about {group}."),
    ),
)
