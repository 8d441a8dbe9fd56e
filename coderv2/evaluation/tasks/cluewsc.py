"""CLUEWSC (Xu et al. 2020): whether a Chinese pronoun stands for a given name; five worked examples."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from coderv2.evaluation.asking import Decoding, Problem
from coderv2.evaluation.data import Data, Row, Source
from coderv2.evaluation.written import Written

_SHOTS = 5
_HOW = "datasets/cluewsc of github.com/CLUEbenchmark/FewCLUE (test_public.json and train_few_all.json)"
_TEST = Source("cluewsc/test_public.json", how=_HOW)
_TRAIN = Source("cluewsc/train_few_all.json", how=_HOW)


@dataclass(frozen=True, kw_only=True)
class Cluewsc(Written):
    """Answers are 是 (yes) and 否 (no)."""

    def problems(self, data: Data) -> Iterable[Problem]:
        """The public test rows."""
        examples = data.rows(_TRAIN)[:_SHOTS]
        shots = "".join(f"{self.layout.format(question=_question(r))}{_answer(r)}\n\n" for r in examples)
        for number, row in enumerate(data.rows(_TEST)):
            fields = {"question": _question(row), "answers": [_answer(row)], "shots": shots}
            yield Problem(f"cluewsc/{row.get('idx', number)}", fields)


def _question(row: Row) -> str:
    target = row["target"]
    return f"{row['text']}\n上文中的“{target['span2_text']}”指的是“{target['span1_text']}”吗？（是或否）"


def _answer(row: Row) -> str:
    return "是" if str(row["label"]).lower() == "true" else "否"


def _first_word(text: str) -> str:
    """是 or 否, whichever is said first; 不是 is 否, and 是否 neither."""
    found = re.search("不|(?<!是)否|是(?!否)", text)
    return ("是" if found[0] == "是" else "否") if found else ""


TASKS = (
    Cluewsc(
        name="cluewsc",
        title="CLUEWSC",
        styles=("base", "chat"),
        sources=(_TEST, _TRAIN),
        decoding=Decoding(8, stop=("\n",)),
        layout="{question}\n答案：",
        instruction="请按例子的格式，只回答“是”或“否”。",
        extract=_first_word,
    ),
)
