"""The README's "HumanEval FIM": SantaCoder's single-line infilling in three languages (Ben Allal et al. 2023)."""

from collections.abc import Iterable
from dataclasses import dataclass

from coderv2.evaluation.asking import Ask, Decoding, Exchange, Infill, Problem, Style
from coderv2.evaluation.data import Data, Source
from coderv2.evaluation.lines import NextLine, compared
from coderv2.evaluation.task import Score, Tools
from coderv2.evaluation.written import first_line

_SOURCE = Source(
    "santacoder-fim/santacoder-fim-task.jsonl",
    how="the rows of huggingface.co/datasets/bigcode/santacoder-fim-task as JSON lines",
)
_NAMES = {"py": "Python", "java": "Java", "js": "JavaScript"}


@dataclass(frozen=True, kw_only=True)
class SantacoderFim(NextLine):
    """Whether the first generated line is the author's; the mean is over items, so JavaScript weighs most."""

    def problems(self, data: Data) -> Iterable[Problem]:
        """One for each row, grouped by language."""
        for number, row in enumerate(data.rows(_SOURCE)):
            language = _NAMES[row["language"]]
            yield Problem(f"{language}/{number}/{row['name']}", row, language)

    def prompt(self, problem: Problem, style: Style) -> Ask:
        """What stands before and after the line."""
        return Infill(problem.row["prompt"], problem.row["suffix"], Decoding(128))

    async def score(self, problem: Problem, exchange: Exchange, tools: Tools) -> Score:
        """The first line with text."""
        return compared(first_line(exchange.reply.text), problem.row["canonical_solution"])

    def canonical(self, problem: Problem, style: Style) -> str:
        """The author's line."""
        return str(problem.row["canonical_solution"])


TASKS = (SantacoderFim(name="santacoder-fim", title="HumanEval FIM", sources=(_SOURCE,), styles=("base",)),)
