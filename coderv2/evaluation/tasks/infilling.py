"""HumanEval infilling (Bavarian et al. 2022): a hole in a canonical solution, filled and then run with the tests.

The README's "HumanEval FIM" is another set, see `santacoder`; its score by the first line is given here beside, as
`exact match`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from coderv2.evaluation.asking import Ask, Decoding, Exchange, Infill, Problem, Style
from coderv2.evaluation.data import Data, Source
from coderv2.evaluation.execution import LIMITS, Executed
from coderv2.evaluation.task import Score, Tools
from coderv2.sandbox.judge import Program

_ORIGIN = "https://github.com/openai/human-eval-infilling/raw/88062ff9859c875d04db115b698ed4b0f0395170/data/"


@dataclass(frozen=True, kw_only=True)
class Infilling(Executed):
    """`one_line`: the hole is a line, so that of the reply its first line counts."""

    one_line: bool = False

    def problems(self, data: Data) -> Iterable[Problem]:
        """One for each row."""
        (source,) = self.sources
        return (Problem(row["task_id"], row) for row in data.rows(source))

    def prompt(self, problem: Problem, style: Style) -> Ask:
        """What stands before and after the hole."""
        return Infill(problem.row["prompt"], problem.row["suffix"], Decoding(64 if self.one_line else 512))

    def middle(self, text: str) -> str:
        """What of the reply is put into the hole: a line, or all of it.

        A cut where a reply begins to repeat the suffix would spoil 34 of the authors' own 3,811 middles.
        """
        return first_line(text) if self.one_line else text

    def code(self, problem: Problem, exchange: Exchange) -> str:
        """Prefix, middle, suffix."""
        row = problem.row
        return f"{row['prompt']}{self.middle(exchange.reply.text)}{row['suffix']}"

    def program(self, problem: Problem, code: str) -> Program:
        """With HumanEval's own tests."""
        row = problem.row
        return Program("python", code, tests=f"{row['test']}\n\ncheck({row['entry_point']})\n", limits=LIMITS)

    async def score(self, problem: Problem, exchange: Exchange, tools: Tools) -> Score:
        """By running it; for a line, whether it is the author's beside that."""
        score = await Executed.score(self, problem, exchange, tools)
        if not self.one_line:
            return score
        same = first_line(exchange.reply.text).strip() == problem.row["canonical_solution"].strip()
        return Score(**{**vars(score), "others": {"exact match": float(same)}})

    def canonical(self, problem: Problem, style: Style) -> str:
        """The author's middle."""
        return str(problem.row["canonical_solution"])


def first_line(text: str) -> str:
    """The first line with text, and the blank ones before it."""
    lines = text.splitlines(keepends=True)
    place = next((i for i, line in enumerate(lines) if line.strip()), len(lines) - 1)
    line = "".join(lines[: place + 1])
    return line if not line or line.endswith("\n") else line + "\n"


def _task(name: str, title: str, file: str, *, one_line: bool = False) -> Infilling:
    source = Source(f"humaneval-infilling/{file}.jsonl.gz", f"{_ORIGIN}{file}.jsonl.gz")
    note = "An empty middle passes 27 of all 1,033." if one_line else ""
    return Infilling(
        name=name, title=title, sources=(source,), styles=("base",), one_line=one_line, note=note
    )


TASKS = (
    _task(
        "infilling-single-line",
        "HumanEval infilling, single line",
        "HumanEval-SingleLineInfilling",
        one_line=True,
    ),
    _task("infilling-multi-line", "HumanEval infilling, multi line", "HumanEval-MultiLineInfilling"),
    _task("infilling-random-span", "HumanEval infilling, random span", "HumanEval-RandomSpanInfilling"),
    _task(
        "infilling-random-span-light",
        "HumanEval infilling, random span light",
        "HumanEval-RandomSpanInfillingLight",
    ),
)
