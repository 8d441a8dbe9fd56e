"""A cursor in the middle of a token: the engine goes on as if the token had been typed whole."""

from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from coderv2.engine.engine import Engine, EngineSettings
from coderv2.engine.grammar import StructuredOutputsParams
from coderv2.engine.healing import Healing
from coderv2.engine.request import SamplingParams
from coderv2.errors import InvalidValue
from coderv2.text.fim import encode_fim
from tests.engine.fakes import FakeModel, answer, fake_engine, greedy, likeliest, run, text
from tests.tiny import tiny_config, tiny_model
from tests.tiny_tokenizer import LINES, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TEXT = "".join(LINES[:8])


def recites(whole: list[int]) -> FakeModel:
    """Goes on with `whole` after any beginning of it, with EOS at its end; after other texts at random."""

    def logits(tokens: list[int]) -> Tensor:
        row_W = torch.zeros(600)
        known = tokens == whole[: len(tokens)]
        row_W[[*whole, TOKENIZER.eos_id][len(tokens)] if known else likeliest(tokens)] = 5.0
        return row_W

    return FakeModel(logits, context=512)


def completed(model: FakeModel, prompt: list[int], **params: Any) -> tuple[str, list[int]]:
    engine = fake_engine(model, cache_tokens=1024)
    name = engine.submit(prompt, greedy(params.pop("max_tokens", 200), **params))
    deltas = run(engine)
    engine.check()
    return text(deltas, name), answer(deltas, name)


@pytest.mark.parametrize("seed", range(8))
def test_a_text_that_is_cut_within_a_token_is_completed_as_if_typed_whole(seed: int) -> None:
    whole = TOKENIZER.encode(TEXT, bos=True)
    cut = Random(seed).randrange(10, len(TEXT) - 10)
    shown, _ = completed(recites(whole), TOKENIZER.encode(TEXT[:cut], bos=True), token_healing=True)
    assert shown == TEXT[cut:]


def test_without_healing_the_same_cut_leads_astray() -> None:
    whole = TOKENIZER.encode(TEXT, bos=True)
    cut = TEXT.index("values") + 3
    prompt = TOKENIZER.encode(TEXT[:cut], bos=True)
    assert completed(recites(whole), prompt)[0] != TEXT[cut:]
    assert completed(recites(whole), prompt, token_healing=True)[0] == TEXT[cut:]


def fim_model(prompt: list[int], middle: str) -> FakeModel:
    """Answers the healed infilling prompt `prompt` with `middle`."""
    return recites([*prompt, *TOKENIZER.encode(middle)])


def test_a_hole_within_a_token_is_filled_as_if_the_token_were_whole() -> None:
    model = fim_model(encode_fim(TOKENIZER, "return", ")\n"), " values + values")
    shown, ids = completed(model, encode_fim(TOKENIZER, "return val", "ues)\n"), token_healing=True)
    assert shown == "ues + val"
    assert ids[-1] == TOKENIZER.eos_id


def test_a_hole_that_nothing_belongs_into_stays_empty() -> None:
    model = fim_model(encode_fim(TOKENIZER, "return", ")\n"), " values")
    assert completed(model, encode_fim(TOKENIZER, "return val", "ues)\n"), token_healing=True)[0] == ""


def test_an_answer_does_not_end_before_the_token_behind_the_cursor_is_complete() -> None:
    # The model would end at once, and otherwise write this, token by token.
    second_best = [TOKENIZER.encode(word)[-1] for word in ("val", "x", " values")]
    second_best.insert(0, TOKENIZER.encode(" ")[0])
    start = len(encode_fim(TOKENIZER, "return", ")\n"))

    def logits(tokens: list[int]) -> Tensor:
        row_W = torch.zeros(600)
        row_W[TOKENIZER.eos_id] = 5.0
        row_W[second_best[min(len(tokens) - start, 3)]] = 3.0
        return row_W

    prompt = encode_fim(TOKENIZER, "return val", "ues)\n")
    shown, ids = completed(FakeModel(logits, context=512), prompt, token_healing=True)
    assert shown == "x val"
    assert ids == [*second_best, TOKENIZER.eos_id]


def test_an_answer_cut_off_by_its_length_shows_all_that_it_has() -> None:
    model = fim_model(encode_fim(TOKENIZER, "return", ")\n"), " values + right and more")
    prompt = encode_fim(TOKENIZER, "return val", "ues)\n")
    assert completed(model, prompt, token_healing=True, max_tokens=4)[0].startswith("ues + ")


@pytest.mark.parametrize(
    "more", [{}, {"prediction": "ues)\n    pivot"}, {"min_tokens": 3}, {"stop": ["pivot"]}]
)
def test_healing_goes_with_drafts_stops_and_min_tokens(more: dict[str, Any]) -> None:
    whole = TOKENIZER.encode(TEXT, bos=True)
    cut = TEXT.index("values", 60) + 3
    prompt = TOKENIZER.encode(TEXT[:cut], bos=True)
    expected = TEXT[cut:]
    if "stop" in more:
        expected = expected[: expected.index("pivot")]
    assert completed(recites(whole), prompt, token_healing=True, **more)[0] == expected


@pytest.mark.parametrize("family", ["lite", "full"])
def test_a_real_model_gives_the_tokens_of_the_whole_text_where_it_agrees_with_what_was_typed(
    family: str,
) -> None:
    model = tiny_model(tiny_config(family))

    def tokens(prompt: list[int], **more: Any) -> list[int]:
        engine = Engine(model, TOKENIZER, EngineSettings(cache_tokens=512, max_model_len=256))
        name = engine.submit(prompt, greedy(12, ignore_eos=True, **more))
        return answer(run(engine), name)

    # The token that the model itself puts after the kept prompt is typed in part by the user.
    for text_so_far in ("return", "def push(self", "x ="):
        kept = TOKENIZER.encode(text_so_far, bos=True)
        natural = tokens(kept)
        first = TOKENIZER.token_bytes(natural[0])
        if len(first) > 1 and first.isascii():
            typed = text_so_far + first[:1].decode()
            healed = tokens(TOKENIZER.encode(typed, bos=True), token_healing=True)
            assert healed == natural


@pytest.mark.parametrize(
    "prompt",
    [
        [*TOKENIZER.encode(TEXT, bos=True), TOKENIZER.eos_id],
        [TOKENIZER.bos_id],
        encode_fim(TOKENIZER, "", TEXT),
        encode_fim(TOKENIZER, "", ""),
    ],
)
def test_control_tokens_at_the_edge_are_never_taken(prompt: list[int]) -> None:
    healing = Healing(TOKENIZER, 600)
    healed = healing.heal(prompt)
    assert healed.prompt_ids == prompt
    assert healing.constraint(healed, [TOKENIZER.eos_id]) is None


def test_healing_cannot_be_combined_with_what_says_otherwise() -> None:
    with pytest.raises(InvalidValue, match="prompt_logprobs"):
        SamplingParams(token_healing=True, prompt_logprobs=1)
    with pytest.raises(InvalidValue, match="structured_outputs"):
        SamplingParams(token_healing=True, structured_outputs=StructuredOutputsParams(regex="a"))
    with pytest.raises(InvalidValue, match="token_healing"):
        SamplingParams(token_healing=1)  # type: ignore[arg-type]


def test_n_healed_answers_and_a_neighbour_do_not_disturb_each_other() -> None:
    engine = fake_engine(cache_tokens=1024)
    prompt = TOKENIZER.encode("return val", bos=True)
    params = SamplingParams(n=3, seed=1, max_tokens=10, token_healing=True, ignore_eos=True, temperature=5.0)
    name = engine.submit(prompt, params)
    deltas = run(engine)
    for index in range(3):
        spelled = b"".join(map(TOKENIZER.token_bytes, answer(deltas, name, index)))
        assert spelled.startswith(b" val")
        assert text(deltas, name, index) == spelled.removeprefix(b" val").decode("utf-8", "replace")
