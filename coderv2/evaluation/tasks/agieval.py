"""AGIEval (Zhong et al. 2023): admission tests, English and Chinese, without examples; the mean over its sets."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from coderv2.evaluation import choices, worked
from coderv2.evaluation.asking import Ask, Chat, Choose, Complete, Decoding, Exchange, Problem, Style
from coderv2.evaluation.choices import LETTERS, Layout, MultipleChoice
from coderv2.evaluation.data import Data, Source, parse_rows
from coderv2.evaluation.execution import is_chat
from coderv2.evaluation.score import Figures, Item, macro
from coderv2.evaluation.task import Score, Tools, verdict
from coderv2.text import answers

_SOURCE = Source(
    "agieval/agieval-permissive.tar.gz",
    "https://github.com/ruixiangcui/AGIEval/archive/5c77d073fda993f1652eaae3cf5d04cc5fd21d40.tar.gz",
)
_SETS = re.compile(r"v1/[\w-]+\.jsonl$")
_ENGLISH = ("Q: ", "Answer Choices: ", "A: Among A through {last}, the answer is", "A: The answer is")
_CHINESE = ("问题：", "选项：", "答案：从A到{last}, 我们应选择", "答案：")
_IN_CHINESE = {
    *(f"gaokao-{s}" for s in ("chinese", "geography", "history", "biology", "chemistry", "physics")),
    "gaokao-mathqa", "gaokao-mathcloze", "logiqa-zh", "jec-qa-kd", "jec-qa-ca",
}  # fmt: skip
_INSTRUCTION = "请先逐步思考，最后一行写“答案：X”，X 是 {letters} 中正确的一个或几个。"
_MATHS = {True: worked.CHINESE, False: worked.ENGLISH}
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
                    yield Problem(f"{group}/{number}", {**row, "chinese": group in _IN_CHINESE}, group)

    def prompt(self, problem: Problem, style: Style) -> Ask:
        """Chat: the question, then an instruction. Base: up to the words after which the letter comes."""
        row, (question, options, choose, cloze) = problem.row, _words(problem.row)
        if not row["options"]:
            if style == "chat":
                return Chat.of(row["question"] + _MATHS[row["chinese"]], _REASONED)
            return Complete(f"{question}{row['question']}\n{cloze}", Decoding(64, stop=("\n",)))
        letters, listed = LETTERS[: len(row["options"])], " ".join(row["options"])
        text = f"{row['passage'] or ''}{question}{row['question']} {options}{listed}\n"
        if style == "chat":
            instruction = _INSTRUCTION if row["chinese"] else self.layout.instruction
            return Chat.of(text + instruction.format(letters=letters), _REASONED)
        return Choose(text + choose.format(last=letters[-1]), tuple(f" {letter}" for letter in letters))

    async def score(self, problem: Problem, exchange: Exchange, tools: Tools) -> Score:
        """The right letter or letters, or the right value."""
        row, text, chat = problem.row, exchange.reply.text, is_chat(exchange)
        if not row["options"]:
            # What a base model goes on with ends the prompt's own "The answer is".
            found = answers.final_answer(text if chat else _words(row)[3] + text)
            return verdict(bool(found) and answers.equal(str(row["answer"]), found), found)
        found = choices.letters(text, len(row["options"])) if chat else text.strip()
        return verdict(found == _letters(row), found)

    def canonical(self, problem: Problem, style: Style) -> str:
        """The label, or the value in a box."""
        row = problem.row
        if not row["options"]:
            return f"The answer is \\boxed{{{row['answer']}}}." if style == "chat" else f" {row['answer']}."
        return f"Answer: {_letters(row)}" if style == "chat" else f" {_letters(row)}"

    def figures(self, items: Sequence[Item]) -> Figures:
        """The mean over the sets."""
        return macro(items, self.metric)


def _words(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Around question and options, and after which the letter or the value comes."""
    return _CHINESE if row["chinese"] else _ENGLISH


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
