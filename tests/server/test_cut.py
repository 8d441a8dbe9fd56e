"""Ends that llama.cpp's editors ask for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderv2.server.cut import Cut


def _cut(pieces: list[str], indent: int = 0, seconds: float = 0.0, times: list[float] | None = None) -> str:
    clock = iter(times or [0.0] * 10_000)
    cut = Cut(indent, seconds, lambda: next(clock))
    text = "".join(cut.push(piece) for piece in pieces)
    return text if cut.ended else text + cut.finish()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a\n    b\nc", "a\n    b"),
        ("a\n\n\n    b\n  \nc", "a\n\n\n    b\n  "),
        ("a\n    b\n", "a\n    b\n"),
        ("a\n\tb", "a"),
        ("    ", "    "),
        ("a\r\n\r\n    b\r\nc", "a\r\n\r\n    b"),
        ("a\r\n    b\r\n", "a\r\n    b\r\n"),
        ("a\r", "a\r"),
    ],
)
def test_a_line_that_is_indented_less_ends_it(text: str, kept: str) -> None:
    assert _cut([text], 4) == kept


@given(st.text("ab \n\r\t", max_size=40), st.integers(0, 3), st.integers(0, 39))
def test_pieces_make_no_difference(text: str, indent: int, at: int) -> None:
    assert _cut([text], indent) == _cut([text[:at], text[at:]], indent) == _cut(list(text), indent)


def test_late_it_ends_at_the_next_newline() -> None:
    assert _cut(["a\n", "b\n", "c", "d\ne"], 0, 0.5, [0, 0, 0.1, 0.6, 0.7]) == "a\nb\ncd"


def test_late_it_ends_before_a_carriage_return_too() -> None:
    assert _cut(["a\r", "\n", "b\r", "\n", "c"], 0, 0.5, [0, 0, 0.1, 0.2, 0.6, 0.7]) == "a\r\nb"


def test_the_time_starts_with_the_first_text() -> None:
    assert _cut(["a\n", "b\n"], 0, 0.5, [9.0, 9.0, 9.1]) == "a\nb\n"
