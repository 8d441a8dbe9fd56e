from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coderv2.errors import InvalidValue
from coderv2.text.stream import TextStream
from coderv2.text.tokenizer import EOS, FIM_END, Tokenizer
from tests.tiny_tokenizer import VOCAB_SIZE, tiny_tokenizer

EDITOR_STOPS = (
    "<｜fim▁begin｜>",
    "<｜fim▁hole｜>",
    "<｜fim▁end｜>",
    "//",
    "<｜end▁of▁sentence｜>",
    "/src/",
    "#- coding: utf-8",
    "```",
)


class ChunkTokenizer:
    """Every chunk of bytes is a token, so that tests choose the borders."""

    special_ids: frozenset[int] = frozenset()

    def __init__(self, chunks: Sequence[bytes]) -> None:
        self._chunks = chunks

    def token_bytes(self, token_id: int) -> bytes:
        return self._chunks[token_id]


def stream_of(chunks: Sequence[bytes], stops: Sequence[str] = ()) -> TextStream:
    return TextStream(cast(Tokenizer, ChunkTokenizer(chunks)), stops)


def streamed(chunks: Sequence[bytes], stops: Sequence[str] = ()) -> tuple[list[str], str | None]:
    """What each token and then the end release, and the stop string met."""
    stream = stream_of(chunks, stops)
    sent = [stream.push(i) for i in range(len(chunks))]
    return [*sent, stream.finish()], stream.stopped


def cut(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """The rule, said plainly: the stop that is complete first, the longest of those that end together."""
    for end in range(1, len(text) + 1):
        met = [stop for stop in stops if text[:end].endswith(stop)]
        if met:
            stop = max(met, key=len)
            return text[: end - len(stop)], stop
    return text, None


def split(data: bytes, borders: Sequence[int]) -> list[bytes]:
    places = [0, *sorted(border % (len(data) + 1) for border in borders), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


few_letters = st.text(alphabet="abc\ufffd🚀", max_size=30)
stop_lists = st.lists(st.text(alphabet="abc\ufffd🚀", min_size=1, max_size=5), max_size=5)
border_lists = st.lists(st.integers(0, 200), max_size=30)


@given(few_letters, stop_lists, border_lists)
@example("xabc", ["ab", "abc"], [1, 2, 3, 4])
@example("abcd", ["abcd", "bc"], [1, 2, 3])
@example("aab", ["ab"], [1, 2])
@example("ababac", ["abac"], [1, 2, 3, 4, 5])
def test_gives_the_text_cut_at_the_first_stop(text: str, stops: list[str], borders: list[int]) -> None:
    sent, stopped = streamed(split(text.encode(), borders), stops)
    assert ("".join(sent), stopped) == cut(text, stops)


@given(st.binary(max_size=40), stop_lists, border_lists)
@example(b"\xe2\x82A\xf0\x9f", [], [1, 2, 3])
@example(b"\xf0\x90\x80\x80\xed\xa0\x80\xc0\xaf", ["\ufffd\ufffd"], [1, 4, 5])
def test_any_bytes_decode_as_if_all_at_once(data: bytes, stops: list[str], borders: list[int]) -> None:
    sent, stopped = streamed(split(data, borders), stops)
    assert ("".join(sent), stopped) == cut(data.decode("utf-8", "replace"), stops)


@given(st.lists(st.integers(0, VOCAB_SIZE + 10), max_size=40), st.booleans())
def test_equals_the_tokenizers_decoding(ids: list[int], skip: bool) -> None:
    tokenizer = tiny_tokenizer()
    stream = TextStream(tokenizer, skip_special=skip)
    text = "".join(stream.push(i) for i in ids) + stream.finish()
    assert text == tokenizer.decode(ids, skip_special=skip)


@given(st.text(), border_lists)
def test_without_stops_every_finished_character_is_sent_at_once(text: str, borders: list[int]) -> None:
    chunks = split(text.encode(), borders)
    stream = stream_of(chunks)
    sent, data = "", b""
    for index, chunk in enumerate(chunks):
        sent += stream.push(index)
        data += chunk
        assert sent == data.decode("utf-8", "ignore")
    assert stream.finish() == ""


@given(few_letters, stop_lists)
def test_holds_back_only_what_may_become_a_stop(text: str, stops: list[str]) -> None:
    text, _ = cut(text, stops)
    stream = stream_of([character.encode() for character in text], stops)
    sent = ""
    for index in range(len(text)):
        sent += stream.push(index)
        held = text[len(sent) : index + 1]
        assert text.startswith(sent)
        assert held == "" or any(stop.startswith(held) for stop in stops)


@pytest.mark.parametrize("stop", EDITOR_STOPS)
def test_editor_stops_are_met_over_every_token_border(stop: str) -> None:
    data = f"x = 1{stop}y".encode()
    for border in range(len(data) + 1):
        sent, stopped = streamed([data[:border], data[border:]], EDITOR_STOPS)
        assert ("".join(sent), stopped) == ("x = 1", stop)
    assert streamed([bytes([byte]) for byte in data], EDITOR_STOPS)[0] == [*"x = 1", *[""] * (len(data) - 4)]


def test_sixteen_long_stops_are_met() -> None:
    stops = [f"{'=' * 240}{number:x}" for number in range(16)]
    sent, stopped = streamed([b"a", b"=" * 300, b"f", b"b"], stops)
    assert ("".join(sent), stopped) == ("a" + "=" * 60, stops[15])


def test_an_emoji_over_four_tokens_is_sent_whole() -> None:
    sent, _ = streamed([bytes([byte]) for byte in "🚀".encode()])
    assert sent == ["", "", "", "🚀", ""]


def test_an_unfinished_character_is_replaced_at_the_end() -> None:
    assert streamed([b"a\xf0\x9f"])[0] == ["a", "\ufffd"]


def test_an_unfinished_stop_is_sent_at_the_end() -> None:
    assert streamed([b"a\n", b"\nUs"], ["\n\nUser:"]) == (["a", "", "\n\nUs"], None)


def test_nothing_follows_a_stop() -> None:
    assert streamed([b"a", b"bSTOPc", b"d"], ["STOP"]) == (["a", "b", "", ""], "STOP")


def test_a_stop_may_be_completed_by_the_end() -> None:
    assert streamed([b"a\xf0"], ["a\ufffd"]) == (["", ""], "a\ufffd")


def test_finishing_twice_sends_nothing_twice() -> None:
    stream = stream_of([b"ab"], ["abc"])
    assert (stream.push(0), stream.finish(), stream.finish()) == ("", "ab", "")


def test_special_tokens_show_only_when_asked() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode(f"a{FIM_END}{EOS}", control=True)
    hidden, shown = TextStream(tokenizer), TextStream(tokenizer, skip_special=False)
    assert "".join(map(hidden.push, ids)) == f"a{FIM_END}"
    assert "".join(map(shown.push, ids)) == f"a{FIM_END}{EOS}"


def test_a_marker_can_be_a_stop() -> None:
    tokenizer = tiny_tokenizer()
    stream = TextStream(tokenizer, [FIM_END])
    ids = tokenizer.encode(f"a{FIM_END}b", control=True)
    assert "".join(map(stream.push, ids)) + stream.finish() == "a"
    assert stream.stopped == FIM_END


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(InvalidValue, match="must not be empty") as caught:
        stream_of([], ["x", ""])
    assert caught.value.param == "stop"


def test_long_answers_cost_the_same_per_token() -> None:
    # Every token keeps 255 characters waiting; work that grew with the answer would take minutes here.
    stream = stream_of([b"a"], ["a" * 255 + "b"])
    sent = "".join(stream.push(0) for _ in range(100_000))
    assert len(sent + stream.finish()) == 100_000
    assert len(sent) == 100_000 - 255
