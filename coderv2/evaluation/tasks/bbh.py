"""BIG-Bench Hard (Suzgun et al. 2022): 27 tasks of reasoning, three worked examples with their thoughts each."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from coderv2.errors import BadData
from coderv2.evaluation.asking import Decoding, Problem, Style
from coderv2.evaluation.data import Data, Source, parse_object
from coderv2.evaluation.score import Figures, Item, macro
from coderv2.evaluation.written import Written

_SOURCE = Source(
    "bbh/bbh.tar.gz",
    "https://github.com/suzgunmirac/BIG-Bench-Hard/archive/9ee07bd481feebf959a6b59d61ea57bdcf30964d.tar.gz",
)
_SAID = re.compile(r"(?i)the answer is:?")


@dataclass(frozen=True, kw_only=True)
class Bbh(Written):
    """The score is the mean over tasks; over all items beside it."""

    def problems(self, data: Data) -> Iterable[Problem]:
        """Task by task."""
        prompts = {PurePosixPath(n).stem: c.decode() for n, c in data.members(_SOURCE, ".txt").items()}
        for name, content in data.members(_SOURCE, ".json").items():
            task = PurePosixPath(name).stem
            if task not in prompts:
                raise BadData(f"{_SOURCE.path}: no prompt cot-prompts/{task}.txt")
            shots = prompts[task].partition("-----\n")[2].strip() + "\n\n"
            for number, row in enumerate(parse_object(content, name)["examples"]):
                fields = {"question": row["input"], "answers": [row["target"]], "shots": shots}
                yield Problem(f"{task}/{number}", fields, task)

    def canonical(self, problem: Problem, style: Style) -> str:
        """As the examples end."""
        return f" So the answer is {problem.row['answers'][0]}."

    def figures(self, items: Sequence[Item]) -> Figures:
        """The mean over tasks."""
        return macro(items, self.metric)


def said(text: str) -> str:
    """What follows the last "the answer is", up to the line's end, without the full stop."""
    places = list(_SAID.finditer(text))
    if not places:
        return ""
    return text[places[-1].end() :].strip().partition("\n")[0].strip().removesuffix(".").strip()


def _normal(answer: str) -> str:
    """Letters of options with or without brackets, words in any case; brackets of Dyck words stay."""
    text = answer.strip().removesuffix(".").strip("*` ").lower()
    option = re.match(r"\(([a-z])\)", text)
    return option.group(1) if option else text


TASKS = (
    Bbh(
        name="bbh",
        title="BBH",
        styles=("base", "chat"),
        sources=(_SOURCE,),
        decoding=Decoding(1024, stop=("\nQ:", "\n\nQ:")),
        layout="Q: {question}\nA: Let's think step by step.",
        instruction="Go on as in the examples: think step by step and end with 'So the answer is' and the answer.",
        extract=said,
        normal=_normal,
    ),
)
