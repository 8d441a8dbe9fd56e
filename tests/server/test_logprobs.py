"""Log-probabilities in both shapes."""

import math

from coderv2.engine.request import TokenLogprob
from coderv2.server.logprobs import CompletionLogprobs, chat_logprobs
from tests.tiny_tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def _places(text: str) -> list[TokenLogprob]:
    return [TokenLogprob(i, -0.25, 1, ((i, -0.25), (TOKENIZER.eos_id, -3.0))) for i in TOKENIZER.encode(text)]


def test_bytes_of_all_tokens_spell_the_text_even_through_split_characters() -> None:
    text = "def 你好 🚀"
    content = chat_logprobs(TOKENIZER, _places(text))["content"]
    assert bytes(b for token in content for b in token["bytes"]).decode() == text
    assert content[0]["top_logprobs"][1]["logprob"] == -3.0


def test_offsets_count_characters_across_chunks() -> None:
    places = _places("a 🚀 b")
    whole = CompletionLogprobs(TOKENIZER).add(places)
    parts = CompletionLogprobs(TOKENIZER)
    offsets = [offset for place in places for offset in parts.add([place])["text_offset"]]
    assert whole["text_offset"] == offsets
    assert offsets[0] == 0
    assert offsets[-1] <= len("a 🚀 b")
    assert "".join(whole["tokens"][:1]) == "a"


def test_the_chosen_token_is_among_the_top_ones_and_infinity_becomes_a_number() -> None:
    chosen = TokenLogprob(TOKENIZER.encode("a")[0], -math.inf, 9, ())
    shown = CompletionLogprobs(TOKENIZER).add([chosen])
    assert shown["token_logprobs"] == [-9999.0]
    assert shown["top_logprobs"] == [{"a": -9999.0}]
