"""Needles: what counts as found, and that a reader of the end alone finds what is hidden there."""

import asyncio

import pytest

from coderv2.evaluation.asking import Ask, Chat, Complete, Exchange, Problem, Reply
from coderv2.evaluation.data import Data
from coderv2.evaluation.tasks import TASKS
from tests.evaluation.fakes import FakeTools
from tests.evaluation.tasks import invented


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Problem]]:
    data: Data = invented.data(tmp_path_factory.mktemp("data"))
    return {name: list(TASKS[name].problems(data)) for name in ("needle", "needle-code")}


def score(name: str, ask: Ask, said: str) -> float:
    task = TASKS[name]
    return asyncio.run(task.score(Problem("x", {}), Exchange(ask, Reply(said)), FakeTools())).value  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("It is 48613.", 1.0),
        ("48,613", 1.0),
        ("`HARBOUR_LANTERN_LIMIT = 48_613`", 1.0),
        ("148613", 0.0),
        ("486130", 0.0),
        ("48 thousand", 0.0),
    ],
)
def test_a_constant_is_named_whole(said: str, value: float) -> None:
    assert score("needle-code", Chat.of("x"), said) == value


def test_each_keyword_is_a_third_and_of_a_base_models_reply_the_first_line_counts() -> None:
    text = "Eat a Sandwich.\nIn Dolores Park, on a sunny day."
    assert score("needle", Chat.of("x"), text) == 1.0
    assert score("needle", Complete("x"), text) == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", ["needle", "needle-code"])
def test_who_reads_the_last_quarter_alone_finds_a_quarter(name: str, cells: dict[str, list[Problem]]) -> None:
    found = []
    for problem in cells[name]:
        ask = TASKS[name].prompt(problem, "base")
        assert isinstance(ask, Complete)
        document = ask.text.rpartition("\n\nQuestion: ")[0]
        found.append((problem.row["depth"], score(name, Chat.of("x"), document[-len(document) // 4 :])))
    assert {depth for depth, value in found if value == 1.0} == {80, 90, 100}
    assert len(found) == 11
