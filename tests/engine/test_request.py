from collections.abc import Sequence
from typing import Any

import pytest

from coderv2.engine.luck import Luck
from coderv2.engine.request import Choice, Delta, Request, SamplingParams
from coderv2.errors import InvalidValue
from tests.tiny_tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
EOS = TOKENIZER.eos_id


def request(limit: int = 100, **params: Any) -> Request:
    return Request("r", 0, SamplingParams(**params), [5, 6, 7], limit, TOKENIZER, Luck(0))


def feed(asked: Request, token_ids: Sequence[int]) -> list[Delta]:
    deltas = []
    for token_id in token_ids:
        deltas.append(asked.accept(Choice(token_id)))
        if asked.finish_reason:
            break
    return deltas


def text(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def encode(words: str) -> list[int]:
    return TOKENIZER.encode(words)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("n", True),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "hot"),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_p", float("nan")),
        ("top_k", -2),
        ("top_k", 1.5),
        ("min_p", 1.01),
        ("max_tokens", 0),
        ("min_tokens", -1),
        ("min_tokens", 17),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("stop", [1]),
        ("stop", 5),
        ("stop_token_ids", 5),
        ("logit_bias", [1]),
        *(
            pytest.param(name, 10**400, id=f"{name} huge")
            for name in ("n", "temperature", "top_k", "max_tokens", "seed", "repetition_penalty")
        ),
        ("logit_bias", {3: 10**400}),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", ["a"]),
        ("seed", 1.0),
        ("ignore_eos", 1),
        ("skip_special_tokens", None),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -2.5),
        ("repetition_penalty", 0),
        ("logit_bias", {3: 101}),
        ("logit_bias", {3: float("nan")}),
        ("logit_bias", {"3": 1}),
        ("logprobs", 21),
        ("logprobs", -1),
    ],
)
def test_a_value_out_of_range_is_refused_and_its_field_named(field: str, value: Any) -> None:
    with pytest.raises(InvalidValue, match=field) as caught:
        SamplingParams(**{field: value})
    assert caught.value.param == field


def test_the_message_gives_the_range_and_the_value() -> None:
    with pytest.raises(InvalidValue, match=r"top_p must be a number above 0 to 1, not 2"):
        SamplingParams(top_p=2)


def test_the_ends_of_the_ranges_are_allowed() -> None:
    SamplingParams(temperature=0, top_p=1, top_k=-1, min_p=1, logprobs=20, presence_penalty=-2, seed=-1)
    SamplingParams(max_tokens=None, min_tokens=10_000, stop=["x"] * 16, logit_bias={0: -100, 1: 100})


def test_an_answer_ends_with_length_at_its_limit() -> None:
    deltas = feed(request(limit=3), encode("def quick_sort(values):"))
    assert [d.finish_reason for d in deltas] == [None, None, "length"]
    assert deltas[-1].stop_reason is None


def test_the_end_token_ends_an_answer_without_a_stop_reason_and_without_text() -> None:
    deltas = feed(request(), [*encode("value"), EOS])
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", None)
    assert text(deltas) == "value"
    assert deltas[-1].token_ids == (EOS,)


def test_the_end_token_counts_as_the_models_end_also_when_it_is_a_stop_token() -> None:
    assert feed(request(stop_token_ids=[EOS]), [EOS])[-1].stop_reason is None


def test_ignore_eos_goes_on_past_the_end_token() -> None:
    deltas = feed(request(limit=4, ignore_eos=True), [EOS, EOS, *encode("value"), EOS])
    assert deltas[-1].finish_reason == "length"
    assert "value".startswith(text(deltas))


def test_a_stop_token_is_the_stop_reason_and_its_text_is_left_out() -> None:
    word, stop = encode("value"), encode(")")
    deltas = feed(request(stop_token_ids=stop), word + stop)
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", stop[0])
    assert text(deltas) == "value"


def test_a_stop_string_ends_the_answer_and_is_never_sent_wherever_the_tokens_part() -> None:
    ids = [t for character in "left + middle" for t in encode(character)]
    asked = request(stop=["+ mid", "zzz"])
    deltas = feed(asked, ids)
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", "+ mid")
    assert text(deltas) == "left "


def test_text_held_back_for_a_stop_string_comes_with_the_end() -> None:
    ids = [t for character in "left +" for t in encode(character)]
    deltas = feed(request(limit=len(ids), stop="+ mid"), ids)
    assert text(deltas[:-1]) == "left "
    assert text(deltas) == "left +"


def test_an_abort_brings_the_text_held_back() -> None:
    asked = request(stop="+ mid")
    feed(asked, encode("+"))
    delta = asked.abort()
    assert (delta.finish_reason, delta.text) == ("abort", "+")


def test_a_failure_carries_its_message() -> None:
    delta = request().fail("broken")
    assert (delta.finish_reason, delta.error) == ("error", "broken")


def test_stop_strings_within_min_tokens_do_not_end_an_answer() -> None:
    ids = [t for character in "a;b;c;" for t in encode(character)]
    assert len(ids) == 6
    deltas = feed(request(stop=";", min_tokens=2), ids)
    assert text(deltas) == "a;b"
    assert sum(len(d.token_ids) for d in deltas) == 4


def test_the_switch_to_stop_strings_does_not_cut_a_character_in_two() -> None:
    ids = encode("🚀🚀;")
    for min_tokens in range(1, len(ids)):
        deltas = feed(request(stop=";", min_tokens=min_tokens), ids)
        assert text(deltas) == "🚀🚀"


def test_before_min_tokens_every_token_that_could_end_the_answer_is_barred() -> None:
    asked = request(min_tokens=1, stop_token_ids=[9])
    assert asked.barred_ids == {9, EOS}
    assert request(min_tokens=1, ignore_eos=True, stop_token_ids=[9]).barred_ids == {9}
    feed(asked, encode("a"))
    assert asked.barred_ids == set()


def test_special_tokens_are_shown_on_request() -> None:
    deltas = feed(request(limit=1, ignore_eos=True, skip_special_tokens=False), [EOS])
    assert text(deltas) == TOKENIZER.decode([EOS], skip_special=False)
