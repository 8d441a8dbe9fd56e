import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderv2.data import encode
from coderv2.errors import InvalidValue
from coderv2.text.tokenizer import Tokenizer
from tests.data.fakes import document
from tests.tiny_tokenizer import tiny_tokenizer

CODE = "import os\n\n\ndef first(x):\n    return x + 1\n\n\ndef second(y):\n    return y * 2\n"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


@given(st.text(min_size=1, max_size=300), st.integers())
def test_prefix_middle_and_suffix_make_the_text(text: str, seed: int) -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.fim is not None
    ids = encode.encode_plain(text, tokenizer)
    assert (ids[0], ids[-1]) == (tokenizer.bos_id, tokenizer.eos_id)
    if len(text) > 1:
        holed = encode.encode_holed(text, random.Random(seed), tokenizer)
        hole, end = holed.index(tokenizer.fim.hole), holed.index(tokenizer.fim.end)
        assert holed[:2] == [tokenizer.bos_id, tokenizer.fim.begin]
        assert holed[-1] == tokenizer.eos_id
        parts = holed[2:hole], holed[end + 1 : -1], holed[hole + 1 : end]
        assert "".join(map(tokenizer.decode, parts)) == tokenizer.decode(tokenizer.encode(text))


def test_of_a_hole_lesson_only_the_middle_and_its_end_count(tokenizer: Tokenizer) -> None:
    assert tokenizer.fim is not None
    ids, trained = encode.encode_hole_lesson(CODE, random.Random(3), tokenizer)
    assert ids == encode.encode_holed(CODE, random.Random(3), tokenizer)
    middle = ids.index(tokenizer.fim.end) + 1
    assert trained == [False] * middle + [True] * (len(ids) - middle)
    assert any(trained)


@given(st.text(min_size=2), st.integers())
def test_a_hole_is_never_empty(text: str, seed: int) -> None:
    start, end = encode.choose_hole(text, random.Random(seed))
    assert 0 <= start < end <= len(text)


def test_some_holes_are_whole_lines_with_the_newlines_outside() -> None:
    holes = [encode.choose_hole(CODE, random.Random(seed)) for seed in range(200)]
    whole = [(s, e) for s, e in holes if (s == 0 or CODE[s - 1] == "\n") and CODE[e : e + 1] in ("\n", "")]
    assert 60 < len(whole) < 150


def test_half_of_the_documents_get_a_hole_and_a_rerun_chooses_the_same(tokenizer: Tokenizer) -> None:
    assert tokenizer.fim is not None
    documents = [document(CODE, name=f"p/{number}.py") for number in range(400)]
    examples = list(encode.encode(documents, tokenizer))
    assert 150 < sum(ids[1] == tokenizer.fim.begin for ids in examples) < 250
    assert examples == list(encode.encode(documents, tokenizer))
    assert not any(ids[1] == tokenizer.fim.begin for ids in encode.encode(documents, tokenizer, fim_rate=0.0))


def test_a_piece_longer_than_a_row_is_cut_again_so_that_none_loses_its_middle(tokenizer: Tokenizer) -> None:
    assert tokenizer.fim is not None
    documents = [document(CODE * 20, name=f"p/{number}.py") for number in range(10)]
    examples = list(encode.encode(documents, tokenizer, row_tokens=100))
    assert all(len(ids) <= 100 and ids[-1] == tokenizer.eos_id for ids in examples)
    assert 0.3 < sum(ids[1] == tokenizer.fim.begin for ids in examples) / len(examples) < 0.7
    plain = encode.encode(documents, tokenizer, fim_rate=0.0, row_tokens=100)
    assert "".join(tokenizer.decode(ids[1:-1]) for ids in plain) == CODE * 200


def test_only_what_is_too_long_for_a_row_changes(tokenizer: Tokenizer) -> None:
    documents = [document(CODE * times, name=f"p/{times}.py") for times in range(1, 9)]
    whole, cut = (list(encode.encode(documents, tokenizer, row_tokens=n)) for n in (10_000, 150))
    assert [ids for ids in whole if len(ids) <= 150] == [ids for ids in cut if ids in whole] != []


def test_a_row_too_short_for_two_characters_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidValue, match="row_tokens=5 is too few"):
        list(encode.encode([document("\U0001f680" * 9)], tokenizer, row_tokens=5))


@given(st.text(alphabet="ab \n", max_size=400), st.integers(0, 20), st.integers(1, 30))
def test_pieces_hold_every_character_once(text: str, number: int, times: int) -> None:
    paper = document(text * times, name=f"p/{number}.py")
    cut = list(encode.pieces(paper))
    assert "".join(cut) == paper.text
    assert all(cut)
    assert all(len(piece) <= 2 * encode.WINDOWS[-1][0] for piece in cut)


def test_a_long_file_is_cut_before_top_level_statements() -> None:
    paper = document("".join(f"def f{n}(x):\n    return x + {n}\n\n\n" for n in range(2000)))
    assert all(piece.startswith("def f") for piece in encode.pieces(paper))
