import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderv2.errors import InvalidValue, Unsupported
from coderv2.text.fim import encode_fim, split_at_hole
from coderv2.text.tokenizer import BOS, EOS, FIM_BEGIN, FIM_END, FIM_HOLE, Tokenizer
from tests.text.texts import ordinary_text, text_with_surrogates
from tests.tiny_tokenizer import tiny_tokenizer, tiny_tokenizer_folder

TOKENIZER = tiny_tokenizer()
code = ordinary_text | text_with_surrogates


@given(code, code)
def test_equals_the_raw_prompt_with_the_marks_written_out(prefix: str, suffix: str) -> None:
    raw = f"{FIM_BEGIN}{prefix}{FIM_HOLE}{suffix}{FIM_END}"
    expected = TOKENIZER.encode(raw, bos=True, control=True)
    assert encode_fim(TOKENIZER, prefix, suffix) == expected
    assert TOKENIZER.encode(BOS + raw, bos=True, control=True) == expected


@pytest.mark.parametrize(("prefix", "suffix"), [("", ""), ("x", ""), ("", "x"), ("x", "\n")])
def test_parts_may_be_empty(prefix: str, suffix: str) -> None:
    ids = encode_fim(TOKENIZER, prefix, suffix)
    text = TOKENIZER.decode(ids, skip_special=False)
    assert text == f"{BOS}{FIM_BEGIN}{prefix}{FIM_HOLE}{suffix}{FIM_END}"


def test_marks_inside_the_parts_stay_plain_characters() -> None:
    fim = TOKENIZER.fim
    assert fim is not None
    ids = encode_fim(TOKENIZER, f"{BOS}{FIM_HOLE}", f"{FIM_END}{EOS}{FIM_BEGIN}")
    marks = [i for i in ids if i >= TOKENIZER.bos_id]
    assert marks == [TOKENIZER.bos_id, fim.begin, fim.hole, fim.end]


def test_a_tokenizer_without_the_marks_is_refused(tmp_path: Path) -> None:
    path = tiny_tokenizer_folder(tmp_path) / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != FIM_HOLE]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(Unsupported, match="cannot infill") as caught:
        encode_fim(Tokenizer.from_folder(tmp_path), "a", "b")
    assert caught.value.param == "suffix"


@given(st.text(alphabet="ab \n"), st.text(alphabet="ab \n"))
def test_splitting_gives_both_sides_untouched(prefix: str, suffix: str) -> None:
    assert split_at_hole(f"{prefix}<FILL>{suffix}", "<FILL>") == (prefix, suffix)


@pytest.mark.parametrize(("text", "times"), [("no hole", "0"), ("<FILL> and <FILL>", "2")])
def test_the_hole_must_occur_exactly_once(text: str, times: str) -> None:
    with pytest.raises(InvalidValue, match=f"'<FILL>' must occur once, not {times} times"):
        split_at_hole(text, "<FILL>")


def test_an_empty_marker_is_refused() -> None:
    with pytest.raises(InvalidValue, match="marker is empty"):
        split_at_hole("text", "")
