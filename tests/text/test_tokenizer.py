import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from coderv2.data.vocabulary import train_bpe
from coderv2.errors import BadCheckpoint, ContextTooLong
from coderv2.text import tokenizer as tokenizer_module
from coderv2.text.published import CONTROL_TOKENS
from coderv2.text.tokenizer import BOS, EOS, FIM_BEGIN, FIM_END, FIM_HOLE, FimIds, Tokenizer
from tests.text.texts import SPACES, WORDS, ordinary_text, text_with_markers
from tests.tiny_tokenizer import LINES, VOCAB_SIZE, tiny_tokenizer, tiny_tokenizer_folder

TOKENIZER = tiny_tokenizer()
BACKEND = train_bpe(LINES, VOCAB_SIZE)
CONTROL_IDS = set(range(VOCAB_SIZE - len(CONTROL_TOKENS), VOCAB_SIZE))


def edited(folder: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """A tiny checkpoint's tokenizer.json after `edit`."""
    path = tiny_tokenizer_folder(folder) / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return folder


@given(ordinary_text)
def test_decoding_gives_the_text_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(text_with_markers)
def test_markers_in_content_stay_plain_characters(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert CONTROL_IDS.isdisjoint(ids)
    assert TOKENIZER.decode(ids) == text


@given(ordinary_text)
def test_ordinary_text_has_the_same_ids_with_and_without_control(text: str) -> None:
    assert TOKENIZER.encode(text) == TOKENIZER.encode(text, control=True)


@pytest.mark.parametrize("marker", CONTROL_TOKENS)
def test_control_encoding_gives_every_marker_its_one_id(marker: str) -> None:
    ids = TOKENIZER.encode(f"a{marker}b", control=True)
    assert len(ids) == 3
    assert ids[1] in CONTROL_IDS
    assert TOKENIZER.token_bytes(ids[1]) == marker.encode()


@pytest.mark.parametrize(
    "look_alike",
    [
        "<|fim▁begin|>",
        "<|fim_begin|>",
        "<｜fim_begin｜>",
        "<｜fim begin｜>",
        "<｜FIM▁begin｜>",
        "<|begin▁of▁sentence|>",
        "<｜begin_of_sentence｜>",
        "｜fim▁begin｜",
    ],
)
def test_look_alike_markers_are_ordinary_text(look_alike: str) -> None:
    ids = TOKENIZER.encode(look_alike, control=True)
    assert CONTROL_IDS.isdisjoint(ids)
    assert ids == TOKENIZER.encode(look_alike)


def test_special_ids_are_found_by_their_text() -> None:
    first = VOCAB_SIZE - len(CONTROL_TOKENS)
    assert (TOKENIZER.bos_id, TOKENIZER.eos_id) == (first, first + 1)
    assert TOKENIZER.fim == FimIds(begin=first + 3, hole=first + 2, end=first + 4)
    assert TOKENIZER.vocab_size == VOCAB_SIZE
    assert TOKENIZER.special_ids == {first, first + 1}


@pytest.mark.parametrize("text", ["", "x", BOS, BOS + "x", BOS + BOS + "x"])
@pytest.mark.parametrize("control", [False, True])
def test_bos_stands_in_front_exactly_once(text: str, control: bool) -> None:
    ids = TOKENIZER.encode(text, bos=True, control=control)
    assert ids[0] == TOKENIZER.bos_id
    assert ids.count(TOKENIZER.bos_id) == 1


def test_bos_is_not_added_unasked_and_later_ones_stay() -> None:
    assert TOKENIZER.bos_id not in TOKENIZER.encode("x")
    ids = TOKENIZER.encode(f"x{BOS}y", bos=True, control=True)
    assert ids.count(TOKENIZER.bos_id) == 2


def test_decoding_hides_special_tokens_but_keeps_the_infilling_marks() -> None:
    text = f"{BOS}{FIM_BEGIN}a{FIM_HOLE}b{FIM_END}c{EOS}"
    ids = TOKENIZER.encode(text, control=True)
    assert TOKENIZER.decode(ids) == f"{FIM_BEGIN}a{FIM_HOLE}b{FIM_END}c"
    assert TOKENIZER.decode(ids, skip_special=False) == text


@given(st.lists(st.integers(0, VOCAB_SIZE + 200)), st.booleans())
def test_decoding_agrees_with_the_tokenizers_library(ids: list[int], skip: bool) -> None:
    assert TOKENIZER.decode(ids, skip_special=skip) == BACKEND.decode(ids, skip_special_tokens=skip)


def test_rows_without_a_token_decode_to_nothing() -> None:
    assert TOKENIZER.decode([VOCAB_SIZE, 102_399]) == ""
    assert TOKENIZER.token_bytes(102_399) == b""


def test_token_bytes_may_be_part_of_a_character() -> None:
    ids = TOKENIZER.encode("é世")
    assert b"".join(TOKENIZER.token_bytes(i) for i in ids) == "é世".encode()
    assert TOKENIZER.token_bytes(TOKENIZER.encode("ÿ")[0]) == b"\xc3"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("\ud800", "\ufffd"), ("a\udc00b", "a\ufffdb"), ("\ud83d\ude80", "\ufffd\ufffd")],
)
@pytest.mark.parametrize("control", [False, True])
def test_lone_surrogates_become_replacement_characters(text: str, expected: str, control: bool) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text, control=control)) == expected


def test_empty_text_has_no_tokens() -> None:
    assert TOKENIZER.encode("") == []
    assert TOKENIZER.decode([]) == ""


def test_carriage_returns_and_newlines_are_tokens_of_their_own() -> None:
    assert TOKENIZER.encode("a\r\nb") == [64, 188, 185, 65]


@pytest.mark.parametrize(
    "text",
    [" " * 200_000 + "1", "\t" * 200_000 + "²", "\u00a0" * 200_000 + "ก", "a" * 200_000, "\n" * 200_000],
    ids=["spaces", "tabs", "no-break spaces", "letters", "newlines"],
)
def test_long_runs_are_encoded_in_linear_time(text: str) -> None:
    # A quadratic pattern would need minutes for the first three.
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_other_threads_go_on_while_a_long_text_is_encoded() -> None:
    times, done = [time.perf_counter()], threading.Event()

    def beat() -> None:
        while not done.wait(0.001):
            times.append(time.perf_counter())

    other = threading.Thread(target=beat)
    other.start()
    began = time.perf_counter()
    TOKENIZER.encode("def f(x): return x + 1\n" * 20_000)
    took = time.perf_counter() - began
    done.set()
    other.join()
    assert any(began + 0.2 * took < at < began + 0.8 * took for at in times)


@given(st.lists(st.sampled_from([*SPACES, *WORDS, "\n", FIM_HOLE]), max_size=40).map("".join), st.booleans())
def test_a_long_text_has_the_same_ids_in_pieces(text: str, control: bool) -> None:
    whole = TOKENIZER.encode(text, control=control)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_module, "_PIECE", 3)
        assert TOKENIZER.encode(text, control=control) == whole


def test_a_text_is_cut_nowhere_where_a_token_reaches_over_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend.from_str(BACKEND.to_str())
    backend.add_tokens([AddedToken("a\nb")])
    reaching = Tokenizer(backend)
    whole = reaching.encode("a\nba\nb")
    monkeypatch.setattr(tokenizer_module, "_PIECE", 1)
    assert reaching.encode("a\nba\nb") == whole
    assert len(whole) == 2


@pytest.mark.parametrize("text", ["\n" * (8 << 20), "x" * (8 << 20)])
def test_a_text_that_cannot_fit_is_refused_unread(text: str) -> None:
    """8 MiB of line feeds held a thread for half a minute before they were refused."""
    with pytest.raises(
        ContextTooLong, match=r"At most 100 tokens are taken\. However, your request has \d+ input"
    ):
        TOKENIZER.at_most(100).encode(text)


def test_a_text_is_read_no_further_than_it_fits() -> None:
    text = "\n" * 200_000
    with pytest.raises(ContextTooLong, match="your request has 16385 input tokens or more"):
        TOKENIZER.at_most(16_384).encode(text)
    assert TOKENIZER.at_most(200_000).encode(text) == TOKENIZER.encode(text)


@given(st.lists(st.sampled_from(SPACES + WORDS), max_size=12).map("".join))
def test_the_linear_pattern_cuts_like_the_published_one(text: str) -> None:
    assert TOKENIZER.encode(text) == BACKEND.encode(text, add_special_tokens=False).ids


class TestFromFolder:
    def test_reads_what_was_saved(self, tmp_path: Path) -> None:
        read = Tokenizer.from_folder(tiny_tokenizer_folder(tmp_path))
        text = f"def pop(self):\r\n\treturn 2024 你好 {FIM_HOLE}"
        for control in (False, True):
            assert read.encode(text, control=control) == TOKENIZER.encode(text, control=control)
        assert (read.bos_id, read.eos_id, read.fim) == (TOKENIZER.bos_id, TOKENIZER.eos_id, TOKENIZER.fim)

    def test_ignores_length_limits_and_padding_in_the_file(self, tmp_path: Path) -> None:
        def limit(content: dict[str, Any]) -> None:
            content["truncation"] = {
                "direction": "Right",
                "max_length": 4,
                "strategy": "LongestFirst",
                "stride": 0,
            }
            content["padding"] = {
                "strategy": {"Fixed": 64},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": TOKENIZER.eos_id,
                "pad_type_id": 0,
                "pad_token": EOS,
            }

        read = Tokenizer.from_folder(edited(tmp_path, limit))
        for text in ("x", "a b c d e f g h"):
            assert read.encode(text) == TOKENIZER.encode(text)
            assert read.encode(text, control=True) == TOKENIZER.encode(text)

    def test_reads_the_published_shape(self, tmp_path: Path) -> None:
        """An empty normalizer, a ByteLevel post-processor, a config that names LlamaTokenizerFast."""

        def publish(content: dict[str, Any]) -> None:
            content["normalizer"] = {"type": "Sequence", "normalizers": []}
            content["post_processor"] = {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": False,
                "use_regex": True,
            }

        folder = edited(tmp_path, publish)
        config = {"tokenizer_class": "LlamaTokenizerFast", "model_max_length": 16384, "add_bos_token": True}
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        read = Tokenizer.from_folder(folder)
        text = f"  x{FIM_HOLE} 你好\n"
        for control in (False, True):
            assert read.encode(text, control=control) == TOKENIZER.encode(text, control=control)

    def test_lacks_infilling_without_all_three_marks(self, tmp_path: Path) -> None:
        def drop(content: dict[str, Any]) -> None:
            content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] in (BOS, EOS)]

        assert Tokenizer.from_folder(edited(tmp_path, drop)).fim is None

    @pytest.mark.parametrize("missing", [BOS, EOS])
    def test_refuses_a_file_without_bos_or_eos(self, tmp_path: Path, missing: str) -> None:
        def drop(content: dict[str, Any]) -> None:
            content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != missing]
            content["post_processor"] = None

        folder = edited(tmp_path, drop)
        with pytest.raises(BadCheckpoint, match=rf"tokenizer\.json lacks the token {missing}"):
            Tokenizer.from_folder(folder)

    def test_hides_bos_and_eos_even_when_the_file_does_not_mark_them(self, tmp_path: Path) -> None:
        def unmark(content: dict[str, Any]) -> None:
            for token in content["added_tokens"]:
                token["special"] = False

        read = Tokenizer.from_folder(edited(tmp_path, unmark))
        assert read.decode(read.encode(f"{BOS}x{EOS}", control=True)) == "x"
        assert CONTROL_IDS.isdisjoint(read.encode(f"{BOS}x{EOS}"))

    def test_refuses_a_tokenizer_that_is_not_byte_level(self, tmp_path: Path) -> None:
        folder = edited(tmp_path, lambda content: content.update(decoder=None))
        with pytest.raises(BadCheckpoint, match=r"tokenizer\.json: not a byte-level tokenizer"):
            Tokenizer.from_folder(folder)

    def test_names_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(BadCheckpoint, match=r"tokenizer\.json is missing"):
            Tokenizer.from_folder(tmp_path)

    @pytest.mark.parametrize(
        "content", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"model": {"type": "BPE"']
    )
    def test_names_a_damaged_file(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(BadCheckpoint, match=r"tokenizer\.json cannot be read as a tokenizer"):
            Tokenizer.from_folder(tmp_path)

    def test_names_a_truncated_file(self, tmp_path: Path) -> None:
        path = tiny_tokenizer_folder(tmp_path) / "tokenizer.json"
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(BadCheckpoint, match=r"tokenizer\.json cannot be read as a tokenizer"):
            Tokenizer.from_folder(tmp_path)


class TestAddedWords:
    """Older DeepSeek files also hold added tokens that are ordinary words, such as 'ü'."""

    @staticmethod
    def tokenizers() -> tuple[Tokenizer, Backend]:
        backend = train_bpe(LINES, VOCAB_SIZE)
        words = [AddedToken(word, normalized=True, special=False) for word in ("ü", "self")]
        backend.add_tokens(words)
        return Tokenizer(backend), backend

    def test_are_matched_with_and_without_control(self) -> None:
        tokenizer, backend = self.tokenizers()
        ids = tokenizer.encode(f"Führer self.x {FIM_HOLE}")
        assert backend.token_to_id("ü") in ids
        assert CONTROL_IDS.isdisjoint(ids)
        assert tokenizer.encode("Führer self.x ") == tokenizer.encode("Führer self.x ", control=True)

    def test_decode_to_their_text(self) -> None:
        tokenizer, _ = self.tokenizers()
        assert tokenizer.decode(tokenizer.encode("Führer self")) == "Führer self"

    def test_count_in_the_vocabulary(self) -> None:
        tokenizer, _ = self.tokenizers()
        assert tokenizer.vocab_size == max(tokenizer.encode("ü") + tokenizer.encode("self")) + 1
