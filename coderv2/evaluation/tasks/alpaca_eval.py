"""AlpacaEval 2.0 (Dubois et al. 2024): 805 instructions, each answer preferred or not to gpt-4-1106-preview's.

Length control is a logistic fit of the preferences on how much longer the answer is than the baseline's, with the
instruction's difficulty where a table of it is given; the score is what the fit predicts at equal length.
"""

import random
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from coderv2.evaluation.asking import Ask, Chat, Decoding, Exchange, Problem, Style
from coderv2.evaluation.data import Data, Source
from coderv2.evaluation.refereed import Refereed, judged, judgement, last_match
from coderv2.evaluation.score import Array, Figures, Item, bootstrap, mean
from coderv2.evaluation.task import Score, Tools

_BASELINE = Source(
    "alpaca-eval/baseline-gpt-4-1106-preview.json",
    how=(
        "results/gpt4_1106_preview/model_outputs.json of github.com/tatsu-lab/alpaca_eval (CC BY-NC): a list of "
        "instruction and output; a field difficulty is used where it is there"
    ),
)
_SYSTEM = "You are a careful judge of which of two answers to an instruction people would prefer."
_TEMPLATE = (
    "Which of the two outputs is the better answer to the instruction? Judge as people would.\n\n# Instruction\n"
    "{instruction}\n\n# Output (m)\n{first}\n\n# Output (M)\n{second}\n\n"
    "Reply with the name of the better output alone: m or M."
)


@dataclass(frozen=True, kw_only=True)
class AlpacaEval(Refereed):
    """The judge names one output; which of the two comes first is drawn once for each instruction."""

    def problems(self, data: Data) -> Iterable[Problem]:
        """Instructions with the baseline's outputs."""
        for number, row in enumerate(data.rows(_BASELINE)):
            yield Problem(f"alpaca-eval/{number}", row, str(row.get("dataset", "")))

    def prompt(self, problem: Problem, style: Style) -> Ask:
        """The instruction as it is."""
        return Chat.of(problem.row["instruction"], Decoding(4096))

    async def score(self, problem: Problem, exchange: Exchange, tools: Tools) -> Score:
        """Preferred or not; a reply that names neither counts as a tie and is counted apart."""
        row, own = problem.row, exchange.reply.text
        own_first = random.Random(zlib.crc32(problem.id.encode())).random() < 0.5
        first, second = (own, row["output"]) if own_first else (row["output"], own)
        text = _TEMPLATE.format(instruction=row["instruction"], first=first, second=second)
        reply, name = await last_match(tools, judgement(_SYSTEM, text, max_tokens=16), (r"\b([mM])\b",))
        kept = {"longer": len(own) - len(row["output"]), "difficulty": float(row.get("difficulty", 0.0))}
        if not name:
            return Score(0.5, "no verdict", reply, kept=kept)
        won = (name == "m") == own_first
        return Score(float(won), "won" if won else "lost", kept=kept)

    def canonical(self, problem: Problem, style: Style) -> str:
        """The baseline's own output."""
        return str(problem.row["output"])

    def figures(self, items: Sequence[Item]) -> Figures:
        """The win rate at equal length; the plain one beside it."""
        judged(items)
        asked = [item for item in items if item.kept]
        figures = mean(asked, self.metric)
        others = {**figures.others, "win rate": figures.value}
        value, error, low, high = bootstrap(asked, _row, at_equal_length)
        return replace(figures, value=value, stderr=error, low=low, high=high, others=others)


def _row(item: Item) -> tuple[float, float, float]:
    return item.value, item.kept["longer"], item.kept["difficulty"]


def at_equal_length(rows_I3: Array) -> float:
    """The mean preference that the fit predicts where both answers are equally long."""
    value_I, longer_I, difficulty_I = rows_I3.T
    spread = longer_I.std() or 1.0
    x_IF = np.stack([np.ones(len(rows_I3)), np.tanh(longer_I / spread), difficulty_I], axis=1)
    weights_F = _fit(x_IF, value_I)
    x_IF[:, 1] = 0.0
    return float(_logistic(x_IF @ weights_F).mean())


def _fit(x_IF: Any, y_I: Any, *, ridge: float = 1.0, steps: int = 50) -> Any:
    """Logistic regression by Newton's steps; all but the intercept are held small by `ridge`."""
    weights_F = np.zeros(x_IF.shape[1])
    penalty_F = np.array([1e-6, *[ridge] * (x_IF.shape[1] - 1)])
    for _ in range(steps):
        p_I = _logistic(x_IF @ weights_F)
        slope_F = x_IF.T @ (p_I - y_I) + penalty_F * weights_F
        curve_FF = (x_IF * (p_I * (1 - p_I) + 1e-9)[:, None]).T @ x_IF + np.diag(penalty_F)
        before_F, weights_F = weights_F, np.clip(weights_F - np.linalg.solve(curve_FF, slope_F), -20, 20)
        if np.abs(weights_F - before_F).max() < 1e-9:
            break
    return weights_F


def _logistic(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


TASKS = (
    AlpacaEval(
        name="alpaca-eval", title="AlpacaEval 2.0", metric="LC win rate", sources=(_BASELINE,),
        note=(
            "A fit of our own on this model alone, with the judge's word rather than its token probabilities: near the "
            "published length-controlled rate, not equal to it."
        ),
    ),
)  # fmt: skip
