"""The loop that every terminal command shares."""

import sys

import pytest

from coderv2.cli.answering import answer, show
from coderv2.errors import ContextTooLong, ServiceError
from tests.engine.fakes import FakeModel, continuation, fake_engine, greedy
from tests.tiny_tokenizer import tiny_tokenizer


def test_pieces_add_up_to_the_answer() -> None:
    text = tiny_tokenizer().decode(continuation([1, 2, 3], 12))
    assert "".join(answer(fake_engine(), [1, 2, 3], greedy(12))) == text


def test_the_limit_is_cut_to_the_room_that_is_left() -> None:
    engine = fake_engine(FakeModel(context=16))
    text = "".join(answer(engine, [1, 2, 3], greedy(1000)))
    assert text == tiny_tokenizer().decode(continuation([1, 2, 3], 13))
    with pytest.raises(ContextTooLong, match="maximum context length is 16 tokens"):
        list(answer(engine, [1] * 16, greedy(1)))


def test_it_stops_between_two_tokens_when_told_and_leaves_the_engine_idle() -> None:
    engine = fake_engine()
    pieces: list[str] = []
    for piece in answer(engine, [1, 2, 3], greedy(100), stopped=lambda: len(pieces) >= 4):
        pieces.append(piece)
    assert len(pieces) == 4
    assert not engine.has_work()
    assert engine.stats().pages_used == 0


def test_closing_the_iterator_leaves_the_engine_idle() -> None:
    engine = fake_engine()
    pieces = answer(engine, [1, 2, 3], greedy(100))
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert not engine.has_work()
    assert "".join(answer(engine, [4], greedy(3))) == tiny_tokenizer().decode(continuation([4], 3))


def test_a_model_that_fails_is_a_service_error() -> None:
    def broken(tokens: list[int]) -> object:
        raise RuntimeError("broken")

    with pytest.raises(ServiceError, match="broken"):
        list(answer(fake_engine(FakeModel(broken)), [1], greedy(3)))  # type: ignore[arg-type]


@pytest.mark.parametrize(("watched", "end"), [(True, "\n"), (False, "")])
def test_a_line_end_follows_only_where_somebody_watches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], watched: bool, end: str
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: watched)
    assert show(["a", "", "b"]) == "ab"
    assert capsys.readouterr().out == f"ab{end}"
