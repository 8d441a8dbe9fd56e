"""The child that compares formulas."""

from collections.abc import Iterator

import pytest

from coderv2.errors import ServiceError
from coderv2.text import symbolic
from coderv2.text.symbolic import Comparer


@pytest.fixture
def comparer() -> Iterator[Comparer]:
    comparer = Comparer()
    yield comparer
    comparer.close()


def test_a_comparison_that_hangs_counts_as_different_and_the_next_one_works(
    comparer: Comparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert comparer.equal("1", "1.0")
    monkeypatch.setattr(symbolic, "SECONDS", 0.0)
    assert not comparer.equal("(x+1)^7", "x^7")
    monkeypatch.undo()
    assert comparer.equal("2x", "x+x")


def test_answers_belong_to_their_questions_after_a_start_that_failed(
    comparer: Comparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symbolic, "_STARTING", 0.0)
    with pytest.raises(ServiceError, match="did not start: TimeoutError"):
        comparer.equal("x+1", "1+x")
    monkeypatch.undo()
    assert [comparer.equal("x+1", "1+x"), comparer.equal("x", "y")] == [True, False]


def test_answers_belong_to_their_questions_after_an_interruption(
    comparer: Comparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    assert comparer.equal("x+1", "1+x")
    line = symbolic._line
    monkeypatch.setattr(symbolic, "_line", interrupted)
    with pytest.raises(KeyboardInterrupt):
        comparer.equal("y+1", "1+y")
    monkeypatch.setattr(symbolic, "_line", line)
    assert not comparer.equal("x", "y")
