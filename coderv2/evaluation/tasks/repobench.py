"""RepoBench v1.1 (Liu et al. 2023): the next line of a file, with pieces of the repository's other files in front."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from coderv2.errors import BadData
from coderv2.evaluation.asking import Ask, Complete, Decoding, Exchange, Problem, Style
from coderv2.evaluation.data import Data, Row, Source
from coderv2.evaluation.lines import NextLine, compared, first_code_line
from coderv2.evaluation.score import Figures, Item, macro
from coderv2.evaluation.task import Score, Tools
from coderv2.text.tokenizer import Tokenizer

_TOKENS = 15_800
_LEVELS = ("2k", "4k", "8k", "12k", "16k")
_MONTH = "2023-12"
_MARKS = {"python": "#", "java": "//"}


@dataclass(frozen=True, kw_only=True)
class RepoBench(NextLine):
    """The mean over five levels of length; the three kinds of the data are pooled within a level."""

    language: str
    measured_by_tokens: bool = True

    def problems(self, data: Data) -> Iterable[Problem]:
        """Those of December 2023."""
        if data.tokenizer is None:
            raise BadData(
                f"{self.name} cuts prompts at {_TOKENS} tokens: name the model's tokenizer with --tokenizer"
            )
        (source,) = self.sources
        for number, row in enumerate(data.rows(source)):
            if row["level"] in _LEVELS and str(row["created_at"]).startswith(_MONTH):
                fields = {
                    "text": assembled(row, _MARKS[self.language], data.tokenizer),
                    "next": row["next_line"],
                }
                yield Problem(f"{self.name}/{number}", fields, row["level"])

    def prompt(self, problem: Problem, style: Style) -> Ask:
        """As text that goes on."""
        return Complete(problem.row["text"], Decoding(64))

    async def score(self, problem: Problem, exchange: Exchange, tools: Tools) -> Score:
        """The first line of code in the reply."""
        return compared(first_code_line(exchange.reply.text, self.language), problem.row["next"])

    def canonical(self, problem: Problem, style: Style) -> str:
        """The author's line."""
        return str(problem.row["next"])

    def figures(self, items: Sequence[Item]) -> Figures:
        """The plain mean over levels."""
        return macro(items, self.metric)


def assembled(row: Row, mark: str, tokenizer: Tokenizer) -> str:
    """Repository, other files, this file; whole lines are cut from the end of the others until it is short enough."""
    others = [f"{mark} Path: {piece['path']}\n{piece['snippet']}\n\n" for piece in row["context"]]
    around = (
        f"{mark} Repo Name: {row['repo_name']}\n",
        (f"{mark} Path: {row['file_path']}\n{row['import_statement']}\n{row['cropped_code']}\n"),
    )
    room = _TOKENS - sum(len(tokenizer.encode(part)) for part in around)
    kept = _cut("".join(others), room, tokenizer)
    return re.sub(r"\n{4,}", "\n\n", f"{around[0]}{kept}{around[1]}")


def _cut(text: str, room: int, tokenizer: Tokenizer) -> str:
    lines = text.splitlines(keepends=True)
    sizes = [len(tokenizer.encode(line)) for line in lines]
    while lines and sum(sizes) > room:
        sizes.pop()
        lines.pop()
    return "".join(lines)


def _task(language: str) -> RepoBench:
    how = f"the rows of huggingface.co/datasets/tianyang/repobench_{language}_v1.1 (all three splits) as JSON lines"
    source = Source(f"repobench/{language}.jsonl.gz", how=how)
    return RepoBench(
        name=f"repobench-{language}", title=f"RepoBench {language.title()}", language=language, sources=(source,),
        styles=("base",),
    )  # fmt: skip


TASKS = (_task("python"), _task("java"))
