"""Questions of fact: how they are asked, and what counts as the same answer."""

import asyncio
from pathlib import Path

from coderv2.evaluation.asking import Complete, Exchange, Reply
from coderv2.evaluation.tasks import TASKS
from tests.evaluation.fakes import FakeTools, data_with


def test_five_are_examples_and_the_others_end_in_one_question_mark(tmp_path: Path) -> None:
    rows = [{"question": f"who was number {n}", "answer": [f"N{n}", "x"]} for n in range(5)]
    rows += [
        {"question": "who wrote it? ", "answer": ["O’Brien", "The O'Brien"]},
        {"question": "where is it", "answer": ["here"]},
    ]
    data = data_with(tmp_path, {"nq-open/NQ-open.dev.jsonl.gz": rows})
    task = TASKS["naturalquestions"]
    first, second = task.problems(data)
    ask = task.prompt(first, "base")
    assert isinstance(ask, Complete)
    assert ask.text.startswith("Q: who was number 0?\nA: N0\n\nQ: who was number 1?\nA: N1\n\n")
    assert ask.text.endswith("\n\nQ: who wrote it?\nA:")
    assert ask.decoding.stop == ("\n",)
    assert task.prompt(second, "base").text.endswith("Q: where is it?\nA:")  # type: ignore[union-attr]
    for said, value in ((" o'brien.", 1.0), (" the OBrien", 1.0), (" Brien", 0.0), ("", 0.0)):
        exchange = Exchange(ask, Reply(said))
        assert asyncio.run(task.score(first, exchange, FakeTools())).value == value  # type: ignore[attr-defined]
