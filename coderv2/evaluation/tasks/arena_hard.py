"""Arena-Hard v0.1 (Li et al. 2024): 500 requests, each answer compared with gpt-4-0314's, in both orders."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coderv2.evaluation.asking import Ask, Chat, Decoding, Exchange, Problem, Style
from coderv2.evaluation.data import Data, Source
from coderv2.evaluation.refereed import Refereed, judged, judgement
from coderv2.evaluation.score import Array, Figures, Item, bootstrap, mean
from coderv2.evaluation.task import Score, Tools

_ORIGIN = "https://github.com/lmarena/arena-hard-auto/raw/efc012e192b88024a5203f5a28ec8fc0342946df/data/arena-hard-v0.1/"
_QUESTIONS = Source("arena-hard/question.jsonl.gz", f"{_ORIGIN}question.jsonl")
_BASELINE = Source("arena-hard/baseline-gpt-4-0314.jsonl.gz", f"{_ORIGIN}model_answer/gpt-4-0314.jsonl")
_JUDGE = Source(
    "arena-hard/judge_config.yaml", how="config/judge_config.yaml of github.com/lmarena/arena-hard-auto"
)
_VERDICT = re.compile(r"\[\[([AB<>=]+)\]\]")
_STRONG = 3
_GAMES = {"A>>B": ("A", _STRONG), "A>B": ("A", 1), "A=B": ("=", 1), "B>A": ("B", 1), "B>>A": ("B", _STRONG)}
_ATTEMPTS = 2


@dataclass(frozen=True, kw_only=True)
class ArenaHard(Refereed):
    """The score is the chance to win against the baseline; strong verdicts count three times."""

    def problems(self, data: Data) -> Iterable[Problem]:
        """The requests with the baseline's answers and the judge's instructions."""
        baseline = {
            row["question_id"]: row["choices"][0]["turns"][0]["content"] for row in data.rows(_BASELINE)
        }
        system, template = _instructions(data)
        for row in data.rows(_QUESTIONS):
            fields = {
                "question": row["turns"][0]["content"],
                "baseline": baseline[row["question_id"]],
                "system": system,
                "template": template,
            }
            yield Problem(row["question_id"], fields, row["cluster"])

    def prompt(self, problem: Problem, style: Style) -> Ask:
        """The request as it is."""
        return Chat.of(problem.row["question"], Decoding(4096))

    async def score(self, problem: Problem, exchange: Exchange, tools: Tools) -> Score:
        """Two games: the baseline as A, then as B."""
        row, own = problem.row, exchange.reply.text
        first = await _verdict(row, row["baseline"], own, tools)
        second = await _verdict(row, own, row["baseline"], tools)
        games = [g for g in (_game(first, own="B"), _game(second, own="A")) if g]
        wins = sum(won * weight for won, weight in games)
        value = wins / sum(weight for _, weight in games) if games else 0.5
        reason = "won" if value > 0.5 else "lost" if value < 0.5 else "tied"
        detail = f"{first or 'no verdict'}, {second or 'no verdict'}"
        return Score(value, reason if games else "no verdict", detail, kept={"games": games})

    def canonical(self, problem: Problem, style: Style) -> str:
        """The baseline's own answer: against itself nobody wins."""
        return str(problem.row["baseline"])

    def figures(self, items: Sequence[Item]) -> Figures:
        """The predicted win rate, with its interval from resampled problems."""
        figures = mean(items, self.metric)
        value, error, low, high = bootstrap(judged(items), lambda item: _share(item.kept["games"]), _rate)
        dropped = sum(2 - len(item.kept.get("games", ())) for item in items)
        others = {**figures.others, "games without a verdict": float(dropped)}
        return replace(figures, value=value, stderr=error, low=low, high=high, others=others)


def _instructions(data: Data) -> tuple[str, str]:
    """From the judge's configuration: the system prompt and the template with the two answers."""
    text = data.path(_JUDGE).read_text("utf-8")
    system = re.search(r'^system_prompt: "(.*)"$', text, re.MULTILINE)
    template = re.search(r'^prompt_template: \["(.*)"\]$', text, re.MULTILINE)
    if system is None or template is None:
        raise ValueError("judge_config.yaml has no system_prompt or no prompt_template")
    return _unescaped(system.group(1)), _unescaped(template.group(1))


def _unescaped(text: str) -> str:
    return text.replace("\\n", "\n").replace('\\"', '"')


async def _verdict(row: Any, answer_a: str, answer_b: str, tools: Tools) -> str:
    """One of the five verdicts, or nothing: asked again once where there is none, dropped where there are two."""
    text = row["template"].format(question_1=row["question"], answer_1=answer_a, answer_2=answer_b)
    for _ in range(_ATTEMPTS):
        found = set(_VERDICT.findall((await tools.referee(judgement(row["system"], text))).text))
        if found:
            return found.pop() if len(found) == 1 else ""
    return ""


def _game(verdict: str, *, own: str) -> list[float] | None:
    """Won (1), tied (0.5) or lost (0), and its weight."""
    if verdict not in _GAMES:
        return None
    winner, weight = _GAMES[verdict]
    return [0.5 if winner == "=" else float(winner == own), weight]


def _share(games: Sequence[Sequence[float]]) -> tuple[float, float]:
    return sum(won * weight for won, weight in games), sum(weight for _, weight in games)


def _rate(games: Array) -> float:
    """Bradley and Terry's model of two players: the likeliest win rate is the weighted share."""
    won, weight = games.sum(axis=0)
    return float(won / weight)


TASKS = (
    ArenaHard(
        name="arena-hard", title="Arena-Hard", metric="win rate", sources=(_QUESTIONS, _BASELINE, _JUDGE),
        note="Against gpt-4-0314; published with gpt-4-1106-preview as the judge.",
    ),
)  # fmt: skip
