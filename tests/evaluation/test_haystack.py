"""Long texts with something hidden in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderv2.evaluation.haystack import Haystack, modules, sentences
from tests.tiny_tokenizer import tiny_tokenizer

NEEDLE = " The needle lies here."


@pytest.mark.parametrize("make", [sentences, modules])
def test_pieces_are_the_same_in_every_run_and_differ_among_themselves(make) -> None:  # type: ignore[no-untyped-def]
    assert make(30) == make(30)
    assert len(set(make(30))) == 30
    assert make(30, seed=1) != make(30)


def test_modules_are_python() -> None:
    for text in modules(20):
        compile(text, "module", "exec")


@given(tokens=st.integers(300, 3000), depth=st.floats(0, 1))
def test_the_context_is_as_long_as_wanted_and_holds_the_needle_at_its_depth(
    tokens: int, depth: float
) -> None:
    tokenizer = tiny_tokenizer()
    text = HAY.hiding(NEEDLE, tokens, depth)
    assert text.count(NEEDLE) == 1
    longest = max(len(tokenizer.encode(piece)) for piece in PIECES)
    assert tokens - longest <= len(tokenizer.encode(text)) <= tokens
    before = text.index(NEEDLE) / max(1, len(text) - len(NEEDLE))
    assert before == pytest.approx(depth, abs=1.5 * longest / (tokens - 100))


PIECES = sentences(400)
HAY = Haystack(PIECES, tiny_tokenizer())
