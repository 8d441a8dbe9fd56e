"""ARC (Clark et al. 2018): science questions of American schools, easy and challenging; 25 worked examples."""

from collections.abc import Iterable
from dataclasses import dataclass

from coderv2.evaluation.asking import Problem, Style
from coderv2.evaluation.choices import Layout, MultipleChoice, Question
from coderv2.evaluation.data import Data, Row, Source

_SHOTS = 25
_HOW = "unpack ARC-V1-Feb2018.zip of allenai.org/data/arc and put its six .jsonl files into arc/"


@dataclass(frozen=True, kw_only=True)
class Arc(MultipleChoice):
    """A base model weighs the options' texts; `acc_norm` is by their probability per byte."""

    styles: tuple[Style, ...] = ("base", "chat")

    def problems(self, data: Data) -> Iterable[Problem]:
        """The test split, with examples from train."""
        test, train = self.sources
        shots = [_question(row) for row in data.rows(train)[:_SHOTS]]
        return (Problem(row["id"], {"question": _question(row), "shots": shots}) for row in data.rows(test))


def _question(row: Row) -> Question:
    choices = row["question"]["choices"]
    labels = [choice["label"] for choice in choices]
    texts = tuple(choice["text"] for choice in choices)
    return Question(row["question"]["stem"], texts, labels.index(row["answerKey"]))


def _task(level: str) -> Arc:
    files = (Source(f"arc/ARC-{level}-{split}.jsonl.gz", how=_HOW) for split in ("Test", "Train"))
    layout = Layout(question="Question: {text}", by_letter=False)
    return Arc(name=f"arc-{level.lower()}", title=f"ARC-{level}", sources=tuple(files), layout=layout)


TASKS = (_task("Easy"), _task("Challenge"))
