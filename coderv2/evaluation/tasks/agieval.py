"""AGIEval (Zhong et al. 2023): admission tests, English and Chinese, without examples; the mean over its sets."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from coderv2.evaluation import worked
from coderv2.evaluation.asking import Ask, Chat, Choose, Complete, Decoding, Exchange, Problem, Style
from coderv2.evaluation.choices import LETTERS, Layout, MultipleChoice
from coderv2.evaluation.data import Data, Source, parse_rows
from coderv2.evaluation.score import Figures, Item, macro
from coderv2.evaluation.task import Score, Tools, verdict
from coderv2.text import answers

_SOURCE = Source(
    "agieval/agieval-permissive.tar.gz",
    "https://github.com/ruixiangcui/AGIEval/archive/5c77d073fda993f1652eaae3cf5d04cc5fd21d40.tar.gz",
)
_SETS = re.compile(r"v1/[\w-]+\.jsonl$")
_ENGLISH = ("Q: ", "Answer Choices: ", "A: Among A through {last}, the answer is")
_CHINESE = ("问题：", "选项：", "答案：从A到{last}, 我们应选择")
_REASONED = Decoding(max_tokens=2048)


@dataclass(frozen=True, kw_only=True)
class Agieval(MultipleChoice):
    """Questions with options, some with several right letters; and cloze questions, whose answer is a value."""

    def problems(self, data: Data) -> Iterable[Problem]:
        """Set by set."""
        for name, content in data.members(_SOURCE, ".jsonl").items():
            if _SETS.search(name):
                group = PurePosixPath(name).stem
                for number, row in enumerate(parse_rows(content, name)):
                    yield Problem(f"{group}/{number}", {**row, "chinese": group.startswith("gaokao")}, group)

    def prompt(self, problem: Problem, style: Style) -> Ask:
        """Chat: the question, then an instruction. Base: up to the words after which the letter comes."""
        row = problem.row
        if row["options"]:
            question, options, cue = _CHINESE if row["chinese"] else _ENGLISH
            last, listed = LETTERS[len(row["options"]) - 1], " ".join(row["options"])
            text = f"{row['passage'] or ''}{question}{row['question']} {options}{listed}\n"
            if style == "chat":
                return Chat.of(
                    text + self.layout.instruction.format(letters=LETTERS[: len(row["options"])]), _REASONED
                )
            weighed = tuple(f" {letter}" for letter in LETTERS[: len(row["options"])])
            return Choose(text + cue.format(last=last), weighed)
        if style == "chat":
            return Chat.of(
                row["question"] + (worked.CHINESE if row["chinese"] else worked.ENGLISH), _REASONED
            )
        return Complete(f"Q: {row['question']}\nA: The answer is", Decoding(64, stop=("\n",)))

    async def score(self, problem: Problem, exchange: Exchange, tools: Tools) -> Score:
        """The right letter or letters, or the right value."""
        row, text = problem.row, exchange.reply.text
        if not row["options"]:
            found = answers.final_answer(text)
            return verdict(bool(found) and answers.equal(str(row["answer"]), found), found)
        count = len(row["options"])
        found = self.letter(text, count) if isinstance(exchange.ask, Chat) else text.strip()
        return verdict(found == _letters(row), found)

    def letter(self, text: str, count: int) -> str:
        """One letter, or several in a row: ABD."""
        several = re.findall(rf"(?:Answer|答案)\s*[:：]\s*([{LETTERS[:count]}]{{2,}})\b", text)
        return several[-1] if several else MultipleChoice.letter(self, text, count)

    def canonical(self, problem: Problem, style: Style) -> str:
        """The label, or the value in a box."""
        row = problem.row
        if not row["options"]:
            return f"The answer is \\boxed{{{row['answer']}}}."
        return f"Answer: {_letters(row)}" if style == "chat" else f" {_letters(row)}"

    def figures(self, items: Sequence[Item]) -> Figures:
        """The mean over the sets."""
        return macro(items, self.metric)


def _letters(row: Mapping[str, Any]) -> str:
    label = row["label"]
    return "".join(label).replace(" ", "")  # text, or a list of letters


TASKS = (
    Agieval(
        name="agieval",
        title="AGIEval",
        sources=(_SOURCE,),
        layout=Layout(),
        note="The published mean is over 20 sets; a copy without LogiQA and JEC-QA has 16.",
    ),
)
