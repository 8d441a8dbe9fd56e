"""AIME 2024: 30 competition problems whose answers are whole numbers from 0 to 999."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from coderv2.evaluation import worked
from coderv2.evaluation.asking import Exchange, Problem
from coderv2.evaluation.data import Data, Source
from coderv2.evaluation.score import Figures, Item
from coderv2.evaluation.task import Score, Tools
from coderv2.text import answers

_SOURCE = Source(
    "aime-2024/test.jsonl",
    how=(
        "the problems are the MAA's; bring JSON lines with problem and answer (30 rows), such as "
        "evaluation/data/aime24/test.jsonl of github.com/QwenLM/Qwen2.5-Math"
    ),
)


@dataclass(frozen=True, kw_only=True)
class Aime(worked.Worked):
    """With several samples also maj@n: whether the most frequent answer is right."""

    def problems(self, data: Data) -> Iterable[Problem]:
        """One for each row."""
        for number, row in enumerate(data.rows(_SOURCE)):
            fields = {"question": row["problem"], "answer": str(int(row["answer"]))}
            yield Problem(f"aime-2024/{row.get('id', number)}", fields)

    async def score(self, problem: Problem, exchange: Exchange, tools: Tools) -> Score:
        """The answer is kept for the vote."""
        score = await worked.Worked.score(self, problem, exchange, tools)
        return replace(score, kept={"vote": score.answer})

    def figures(self, items: Sequence[Item]) -> Figures:
        """The share solved, and that of majorities where there is something to vote on."""
        figures = worked.Worked.figures(self, items)
        votes = figures.samples // max(figures.n, 1)
        if votes < 2:
            return figures
        return replace(figures, others={**figures.others, f"maj@{votes}": majority(items)})


def majority(items: Sequence[Item]) -> float:
    """The share of problems whose most frequent answer is right; among equals the first seen."""
    by_problem: dict[str, list[Item]] = {}
    for item in sorted(items, key=lambda i: i.index):
        by_problem.setdefault(item.problem, []).append(item)
    return sum(map(_elected, by_problem.values())) / len(by_problem)


def _elected(items: Sequence[Item]) -> float:
    voting = [item for item in items if item.kept.get("vote")]
    said = [answers.number(item.kept["vote"]) for item in voting]  # 073 and 73 are one answer
    votes = Counter(said)
    winner = max(votes, key=votes.__getitem__, default=None)
    return next((item.value for item, vote in zip(voting, said, strict=True) if vote == winner), 0.0)


TASKS = (
    Aime(
        name="aime-2024",
        title="AIME 2024",
        sources=(_SOURCE,),
        extract=answers.final_number,
        equal=answers.same_number,
        note="30 problems: one is 3.3 points.",
    ),
)
