"""MT-Bench (Zheng et al. 2023): 80 conversations of two turns, each answer rated from 1 to 10."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from coderv2.errors import ContextTooLong
from coderv2.evaluation.asking import Ask, Chat, Decoding, Exchange, Place, Problem, Reply, Style
from coderv2.evaluation.data import Data, Source
from coderv2.evaluation.refereed import Refereed, judged, judgement, last_match
from coderv2.evaluation.score import Figures, Item, mean
from coderv2.evaluation.task import Score, Tools
from coderv2.text.chat import Message

_ORIGIN = (
    "https://github.com/lm-sys/FastChat/raw/0e6d3e4beaab66f4d3f93db72541a4abab8af28d/fastchat/llm_judge/data/"
)
_QUESTIONS = Source("mt-bench/question.jsonl", f"{_ORIGIN}mt_bench/question.jsonl")
_REFERENCES = Source("mt-bench/reference-gpt-4.jsonl", f"{_ORIGIN}mt_bench/reference_answer/gpt-4.jsonl")
_PROMPTS = Source("mt-bench/judge_prompts.jsonl", f"{_ORIGIN}judge_prompts.jsonl")
_TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
_RATING = (r"\[\[(\d+\.?\d*)\]\]", r"\[(\d+\.?\d*)\]")


@dataclass(frozen=True, kw_only=True)
class MtBench(Refereed):
    """The mean of all ratings; the two turns and the categories beside it."""

    def problems(self, data: Data) -> Iterable[Problem]:
        """Questions, with reference answers where there are some."""
        references = {row["question_id"]: row["choices"][0]["turns"] for row in data.rows(_REFERENCES)}
        prompts = {row["name"]: row for row in data.rows(_PROMPTS)}
        for row in data.rows(_QUESTIONS):
            reference = references.get(row["question_id"])
            kind = "single-math-v1" if reference else "single-v1"
            judging = (prompts[kind], prompts[f"{kind}-multi-turn"])
            fields = {**row, "reference": reference, "judging": judging}
            yield Problem(str(row["question_id"]), fields, row["category"])

    def prompt(self, problem: Problem, style: Style) -> Ask:
        """The first turn."""
        return Chat.of(problem.row["turns"][0], self._decoding(problem))

    async def exchange(self, place: Place, style: Style, tools: Tools) -> Exchange:
        """Two turns, the second after the model's own first answer; without a reply where there is no room for both."""
        first = self.prompt(place.problem, style)
        assert isinstance(first, Chat)
        reply = await tools.ask(first, place)
        turns = (Message("assistant", reply.text), Message("user", place.problem.row["turns"][1]))
        second = Chat((*first.messages, *turns), first.decoding)
        try:
            return Exchange(second, await tools.ask(second, place))
        except ContextTooLong:
            return Exchange(second, Reply("", "context"))

    async def score(self, problem: Problem, exchange: Exchange, tools: Tools) -> Score:
        """Both turns' ratings; a reply of the judge's without one is left out and counted."""
        assert isinstance(exchange.ask, Chat)
        answers = [m.content for m in exchange.ask.messages if m.role == "assistant"] + [exchange.reply.text]
        fields = _fields(problem.row, answers)
        judging = problem.row["judging"][: 1 if exchange.reply.finish_reason == "context" else 2]
        ratings = [await _rating(prompt, fields, tools) for prompt in judging]
        found = {f"turn {i}": rating for i, rating in enumerate(ratings, 1) if rating is not None}
        value = sum(found.values()) / len(found) if found else 0.0
        return Score(
            value, "rated" if found else "no rating", others=found, kept={"ratings": list(found.values())}
        )

    def canonical(self, problem: Problem, style: Style) -> str:
        """The reference's first answer, where there is one; the judge decides what it is worth."""
        return str((problem.row["reference"] or ["(an answer)"])[0])

    def figures(self, items: Sequence[Item]) -> Figures:
        """Over problems that were rated; the error bar is over problems, whose two turns hang together."""
        rated = judged(items)
        figures = mean(rated, self.metric)
        ratings = [rating for item in rated for rating in item.kept["ratings"]]
        others = {**figures.others, "without a rating": float(2 * len(items) - len(ratings))}
        return replace(figures, value=fmean(ratings), others=others)

    def _decoding(self, problem: Problem) -> Decoding:
        return Decoding(1024, temperature=_TEMPERATURES.get(problem.group, 0.0))


def _fields(row: Mapping[str, Any], answers: Sequence[str]) -> dict[str, str]:
    """By the names that the judge's templates use."""
    questions, references = row["turns"], row["reference"] or ["", ""]
    fields = {"question": questions[0], "answer": answers[0]}
    for i in (0, 1):
        fields |= {
            f"question_{i + 1}": questions[i],
            f"answer_{i + 1}": answers[i],
            f"ref_answer_{i + 1}": references[i],
        }
    return fields


async def _rating(prompt: Mapping[str, Any], fields: Mapping[str, str], tools: Tools) -> float | None:
    ask = judgement(prompt["system_prompt"], prompt["prompt_template"].format(**fields), max_tokens=2048)
    try:
        _, found = await last_match(tools, ask, _RATING)
    except ContextTooLong:  # of both turns together; the first alone may be rated
        return None
    return float(found) if found else None


TASKS = (
    MtBench(
        name="mt-bench", title="MT-Bench", metric="rating of 10", sources=(_QUESTIONS, _REFERENCES, _PROMPTS),
        note="Published with GPT-4 as the judge.",
    ),
)  # fmt: skip
