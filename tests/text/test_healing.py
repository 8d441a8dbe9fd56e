import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderv2.data.vocabulary import train_bpe
from coderv2.text.fim import encode_fim
from coderv2.text.healing import Healer
from coderv2.text.stream import TextStream
from coderv2.text.tokenizer import Tokenizer
from tests.text.texts import ordinary_text
from tests.tiny_tokenizer import LINES, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
HEALER = Healer(TOKENIZER)
TEXT = "".join(LINES)
BOS = TOKENIZER.bos_id


def spelled(ids: list[int]) -> bytes:
    return b"".join(map(TOKENIZER.token_bytes, ids))


@pytest.mark.parametrize(
    ("text", "kept", "taken"),
    [
        ("return val", "return", b" val"),  # " values" is one token, and "val" came as " " and "val"
        ("x = valu", "x =", b" valu"),
        ("return values", "return values", b""),  # no token goes on from here
    ],
)
def test_the_beginning_of_a_longer_token_is_taken_from_the_end(text: str, kept: str, taken: bytes) -> None:
    healed = HEALER.heal(TOKENIZER.encode(text, bos=True))
    assert healed.prompt_ids == TOKENIZER.encode(kept, bos=True)
    assert (healed.before, healed.after) == (taken, b"")


def test_a_cursor_within_any_token_of_a_text_is_healed_back_to_where_that_token_starts() -> None:
    whole = TOKENIZER.encode(TEXT, bos=True)
    checked = 0
    for place in range(1, len(whole)):
        token = TOKENIZER.token_bytes(whole[place])
        for cut in range(1, len(token)):
            try:
                typed = spelled([*whole[1:place]]).decode() + token[:cut].decode()
            except UnicodeDecodeError:
                continue  # a cursor is never within a character
            healed = HEALER.heal(TOKENIZER.encode(typed, bos=True))
            assert spelled(healed.prompt_ids[1:]) + healed.before == typed.encode()
            assert healed.before.endswith(token[:cut])
            checked += 1
    assert checked > 300


@given(ordinary_text)
def test_nothing_is_lost_and_what_was_taken_can_be_spelled(text: str) -> None:
    healed = HEALER.heal(TOKENIZER.encode(text, bos=True))
    assert healed.prompt_ids[0] == BOS
    assert spelled(healed.prompt_ids[1:]) + healed.before == text.encode()
    if healed.before:
        assert set(TOKENIZER.encode(text)[len(healed.prompt_ids) - 1 :][:1]) <= set(
            HEALER.spelling(healed.before)
        )


@given(ordinary_text, ordinary_text)
def test_nothing_is_lost_at_a_hole(prefix: str, suffix: str) -> None:
    assert TOKENIZER.fim is not None
    healed = HEALER.heal(encode_fim(TOKENIZER, prefix, suffix))
    hole = healed.prompt_ids.index(TOKENIZER.fim.hole)
    assert healed.prompt_ids[:2] == [BOS, TOKENIZER.fim.begin]
    assert healed.prompt_ids[-1] == TOKENIZER.fim.end
    assert spelled(healed.prompt_ids[2:hole]) + healed.before == prefix.encode()
    assert healed.after + spelled(healed.prompt_ids[hole + 1 : -1]) == suffix.encode()
    healed.after.decode()


def test_a_token_that_spans_the_hole_is_taken_from_both_sides() -> None:
    healed = HEALER.heal(encode_fim(TOKENIZER, "return val", "ues)\n"))
    assert (healed.before, healed.after) == (b" val", b"ues")
    assert healed.prompt_ids == encode_fim(TOKENIZER, "return", ")\n")


@pytest.mark.parametrize("shift", range(3))
def test_a_token_that_spans_the_hole_is_found_between_characters_that_the_window_cuts(shift: int) -> None:
    foreign = "变" * 20  # three tokens each, so that the window of 24 begins and ends within one
    prefix, suffix = f"{foreign}{'x' * shift}\nreturn val", f"ues){'x' * shift}{foreign}\n"
    assert HEALER.heal(encode_fim(TOKENIZER, prefix, suffix)).after == b"ues"


def test_a_hole_within_a_character_that_is_one_token_takes_nothing_from_the_suffix() -> None:
    tokenizer = Tokenizer(train_bpe(["x = 变 变 变\n"] * 9, 300))
    assert len(tokenizer.encode("变")) == 1
    by_spelling = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size)}
    first, second, third = (by_spelling[bytes([byte])] for byte in "变".encode())
    ids = encode_fim(tokenizer, "x = ", "\n")
    hole = ids.index(tokenizer.fim.hole) if tokenizer.fim else 0
    ids[hole : hole + 1] = [first, ids[hole], second, third]
    healed = Healer(tokenizer).heal(ids)
    assert healed.after == b""
    assert healed.prompt_ids[-4:] == ids[-4:]


def test_a_suffix_that_starts_with_a_whole_token_is_left_alone() -> None:
    healed = HEALER.heal(encode_fim(TOKENIZER, "x = val", "\nreturn x"))
    assert healed.after == b""
    assert healed.prompt_ids == encode_fim(TOKENIZER, "x =", "\nreturn x")


def test_control_tokens_are_never_taken_nor_the_only_token() -> None:
    assert HEALER.heal([BOS]).prompt_ids == [BOS]
    assert HEALER.heal([20, TOKENIZER.eos_id]).prompt_ids == [20, TOKENIZER.eos_id]
    (alone,) = TOKENIZER.encode("s")
    assert HEALER.heal([alone]).prompt_ids == [alone]


def test_control_tokens_in_a_suffix_stay_and_it_is_left_alone() -> None:
    ids = encode_fim(TOKENIZER, "return val", "ues)\n")
    ids.insert(-1, TOKENIZER.eos_id)
    healed = HEALER.heal(ids)
    assert healed.after == b""
    assert healed.prompt_ids[-4:] == ids[-4:]


@given(st.binary(min_size=1, max_size=6))
def test_spelling_gives_every_token_that_agrees_with_a_text_as_far_as_both_go(text: bytes) -> None:
    keys = {i: TOKENIZER.token_bytes(i) for i in range(TOKENIZER.vocab_size) if i not in HEALER.control_ids}
    agreeing = {i for i, key in keys.items() if key and (key.startswith(text) or text.startswith(key))}
    assert set(HEALER.spelling(text)) == agreeing


def stream(tokenizer: Tokenizer, text: str, **options: str | bytes) -> tuple[list[str], str]:
    """What each token of `text` brings, and the end."""
    shown = TextStream(tokenizer, **options)  # type: ignore[arg-type]
    return [shown.push(i) for i in tokenizer.encode(text)], shown.finish()


@pytest.mark.parametrize(
    ("text", "before", "after", "shown"),
    [
        (" values", " val", "", "ues"),
        (" values", " val", "ues", ""),
        (" val + values", " val", "ues", " + val"),
        (" val + other", " val", "ues", " + other"),
        ("你好 world", "你", "", "好 world"),
        ("abc", "", "abc", ""),
    ],
)
def test_what_was_taken_is_not_shown(text: str, before: str, after: str, shown: str) -> None:
    parts, end = stream(TOKENIZER, text, before=before.encode(), after=after)
    assert "".join(parts) + end == shown
    assert shown.startswith("".join(parts))


def test_a_stop_string_is_looked_for_in_what_is_shown() -> None:
    text = TextStream(TOKENIZER, ["val"], before=b" val", after="ues")
    parts = [text.push(i) for i in TOKENIZER.encode(" values + val + x")]
    assert "".join(parts) + text.finish() == "ues + "
    assert text.stopped == "val"
