"""Other files around a hole, as many as there is room for."""

import pytest

from coderv2.errors import Unsupported
from coderv2.server.backend import Backend
from coderv2.server.hole import encode_hole
from coderv2.text.fim import encode_fim, with_path
from tests.server.fakes import ScriptedEngine
from tests.tiny_tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
FILES = [("a.py", "A = 1\n"), ("b.py", "B = 2\n"), ("c.py", "C = 3\n")]
BARE = encode_fim(TOKENIZER, "x", "y")


def _backend(max_model_len: int) -> Backend:
    return Backend(ScriptedEngine(max_model_len=max_model_len), TOKENIZER)


@pytest.mark.parametrize("kept", range(4))
def test_the_last_files_that_fit_are_kept_whole(kept: int) -> None:
    last = FILES[len(FILES) - kept :]
    expected = encode_fim(TOKENIZER, "x", "y", context="".join(with_path(*file) for file in last))
    assert encode_hole(_backend(len(expected) + 8), "x", "y", FILES, 8) == expected


def test_a_hole_that_does_not_fit_stays_alone_for_the_engine_to_refuse() -> None:
    assert encode_hole(_backend(4), "x", "y", FILES, 8) == BARE


def test_thousands_of_files_are_read_from_the_end_only() -> None:
    read = []

    class Counting(type(TOKENIZER)):  # type: ignore[misc]
        def encode(self, text: str, **options: bool) -> list[int]:
            read.append(text)
            return super().encode(text, **options)  # type: ignore[no-any-return]

    counting = object.__new__(Counting)
    counting.__dict__.update(TOKENIZER.__dict__)
    encode_hole(Backend(ScriptedEngine(max_model_len=100), counting), "x", "y", FILES * 1000, 8)
    assert len(read) < 40


def test_a_model_that_cannot_infill_says_so() -> None:
    with pytest.raises(Unsupported, match="cannot"):
        encode_hole(Backend(ScriptedEngine(), TOKENIZER, no_infill="it cannot"), "x", "y", [], 8)
