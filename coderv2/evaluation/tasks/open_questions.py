"""Questions of fact, five worked examples, any of the listed answers: TriviaQA and NaturalQuestions."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from coderv2.evaluation.asking import Problem
from coderv2.evaluation.data import Data, Row, Source
from coderv2.evaluation.written import Written

_SHOTS = 5


@dataclass(frozen=True, kw_only=True)
class OpenQuestions(Written):
    """The first five questions of the data are the examples, for it has no other part for that: they are not scored."""

    question: Callable[[Row], str]
    answers: str
    """The field that lists them."""

    def problems(self, data: Data) -> Iterable[Problem]:
        """One for each row after the examples."""
        (source,) = self.sources
        rows = data.rows(source)
        asked = [(f"{self.question(row).rstrip('? ')}?", row[self.answers]) for row in rows]
        shots = "".join(f"{self.layout.format(question=q)} {answers[0]}\n\n" for q, answers in asked[:_SHOTS])
        for number, (question, answers) in enumerate(asked[_SHOTS:], _SHOTS):
            yield Problem(f"{self.name}/{number}", {"question": question, "answers": answers, "shots": shots})


def _trivia(row: Row) -> str:
    """Some questions carry the quotation marks of a table's cell."""
    text: str = row["question"]
    return text[1:-1].replace('""', '"') if text.startswith('"') and text.endswith('"') else text


_NOTE = "The first five questions of the data are the examples and are not scored."
TASKS = (
    OpenQuestions(
        name="triviaqa",
        title="TriviaQA",
        styles=("base", "chat"),
        sources=(
            Source(
                "triviaqa/test-subsample-1000.jsonl.gz",
                how=(
                    "JSON lines with question and golden_answers, such as a sample of the open-domain test of "
                    "nlp.cs.washington.edu/triviaqa"
                ),
            ),
        ),
        question=_trivia,
        answers="golden_answers",
        note=_NOTE,
    ),
    OpenQuestions(
        name="naturalquestions",
        title="NaturalQuestions",
        styles=("base", "chat"),
        sources=(
            Source(
                "nq-open/NQ-open.dev.jsonl.gz",
                "https://github.com/google-research-datasets/natural-questions/raw/fb26a3073b1fe636c97302890a27b491d6530130/nq_open/NQ-open.dev.jsonl",
            ),
        ),
        question=lambda row: str(row["question"]),
        answers="answer",
        note=_NOTE,
    ),
)
