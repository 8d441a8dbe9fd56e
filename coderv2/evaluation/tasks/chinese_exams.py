"""C-Eval (Huang et al. 2023) and CMMLU (Li et al. 2023): Chinese examinations, five examples of each subject."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from coderv2.evaluation.asking import Problem, Style
from coderv2.evaluation.choices import LETTERS, Layout, MultipleChoice, Question
from coderv2.evaluation.data import Data, Source
from coderv2.evaluation.score import Figures, Item, macro

_LAYOUT = Layout(
    header="以下是中国关于{group}考试的单项选择题，请选出其中的正确答案。",
    cue="答案：",
    instruction="请回答下面的单项选择题。先逐步思考，最后一行写“答案：X”，X 是 {letters} 中的一个。",
)


@dataclass(frozen=True, kw_only=True)
class ChineseExams(MultipleChoice):
    """A CSV file for each subject, in a folder of examples and one of questions; the mean over subjects."""

    styles: tuple[Style, ...] = ("base", "chat")
    shots_in: str = "dev"
    asked_in: str

    def problems(self, data: Data) -> Iterable[Problem]:
        """Subject by subject."""
        (source,) = self.sources
        files = {PurePosixPath(name): content for name, content in data.members(source, ".csv").items()}
        shots = {_subject(n): _questions(c) for n, c in files.items() if n.parent.name == self.shots_in}
        for name, content in files.items():
            if name.parent.name == self.asked_in:
                subject = _subject(name)
                for number, question in enumerate(_questions(content)):
                    row = {"question": question, "shots": shots[subject][:5]}
                    yield Problem(f"{subject}/{number}", row, subject)

    def figures(self, items: Sequence[Item]) -> Figures:
        """The mean over subjects."""
        return macro(items, self.metric)


def _subject(name: PurePosixPath) -> str:
    return name.stem.removesuffix("_dev").removesuffix("_val").removesuffix("_test")


def _questions(content: bytes) -> list[Question]:
    """Columns are named, in either capitals."""
    rows = (
        {k.lower(): v for k, v in row.items() if k}
        for row in csv.DictReader(io.StringIO(content.decode("utf-8-sig")))
    )
    return [
        Question(
            row["question"], tuple(row[letter] for letter in "abcd"), LETTERS.index(row["answer"].strip())
        )
        for row in rows
    ]


TASKS = (
    ChineseExams(
        name="c-eval",
        title="C-Eval",
        sources=(
            Source(
                "ceval/ceval-exam.zip",
                how="ceval-exam.zip of huggingface.co/datasets/ceval/ceval-exam (CC BY-NC-SA), as it is or unpacked",
            ),
        ),
        asked_in="val",
        layout=_LAYOUT,
        note="Scored on the 1,346 questions of val: the answers of test are secret.",
    ),
    ChineseExams(
        name="cmmlu",
        title="CMMLU",
        sources=(
            Source(
                "cmmlu/cmmlu.zip",
                how=(
                    "the data folder (dev, test) of github.com/haonan-li/CMMLU (CC BY-NC-SA), zipped, or as the "
                    "folder cmmlu/cmmlu"
                ),
            ),
        ),
        asked_in="test",
        layout=_LAYOUT,
    ),
)
