"""llama.cpp's routes: pieces of tokens, chosen fields, several answers in a stream."""

from typing import Any

import pytest

from coderv2.engine.request import Delta
from tests.server.fakes import ScriptedEngine, events_of, post, said, scripted_app
from tests.tiny_tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
HOLE = {"input_prefix": "a", "input_suffix": "b"}


def test_half_a_character_is_shown_as_its_bytes() -> None:
    reply = post(scripted_app(ScriptedEngine()), "/tokenize", content="🚀", with_pieces=True)
    pieces = [token["piece"] for token in reply.json()["tokens"]]
    spelled = b"".join(bytes(piece) if isinstance(piece, list) else piece.encode() for piece in pieces)
    assert spelled == "🚀".encode()


@pytest.mark.parametrize(("parse", "count"), [(True, 1), (False, 0)])
def test_marks_are_control_tokens_where_the_caller_wants_them(parse: bool, count: int) -> None:
    fim = TOKENIZER.fim
    assert fim is not None
    reply = post(scripted_app(ScriptedEngine()), "/tokenize", content="<｜fim▁end｜>", parse_special=parse)
    assert reply.json()["tokens"].count(fim.end) == count


def test_ids_beyond_the_vocabulary_are_refused() -> None:
    refused = post(scripted_app(ScriptedEngine()), "/detokenize", tokens=[TOKENIZER.vocab_size])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tokens")


def test_the_last_chunk_of_each_answer_has_its_counts() -> None:
    script = [*said("a", "b"), *said("c", index=1, finish="length")]
    chunks = events_of(post(scripted_app(ScriptedEngine(script)), "/infill", **HOLE, n_cmpl=2, stream=True))
    last = {chunk["index"]: chunk for chunk in chunks if chunk["stop"]}
    assert (last[0]["stop_type"], last[1]["stop_type"]) == ("eos", "limit")
    assert (last[0]["tokens_predicted"], last[1]["tokens_predicted"]) == (2, 1)
    assert "".join(chunk["content"] for chunk in chunks if chunk["index"] == 0) == "ab"


def test_a_stop_word_is_named() -> None:
    script = [Delta("r", 0, "a", (65,), finish_reason="stop", stop_reason="END")]
    answer = post(scripted_app(ScriptedEngine(script)), "/completion", prompt="a", stop=["END"]).json()
    assert (answer["stop_type"], answer["stopping_word"]) == ("word", "END")


def test_probabilities_stand_beside_the_text() -> None:
    answer = post(
        scripted_app(ScriptedEngine(said("a", "b", logprobs=True))), "/completion", prompt="a", n_probs=2
    ).json()
    assert [place["id"] for place in answer["completion_probabilities"]] == [65, 66]
    assert len(answer["completion_probabilities"][0]["top_logprobs"]) == 2


@pytest.mark.parametrize(
    ("sent", "name", "value"),
    [
        ({"n_predict": 7}, "max_tokens", 7),
        ({"n_predict": -1}, "max_tokens", 62),
        ({"n_predict": 1000}, "max_tokens", 62),
        ({"seed": -1}, "seed", None),
        ({"seed": 5}, "seed", 5),
        ({"repeat_penalty": 1.5}, "repetition_penalty", 1.5),
    ],
)
def test_their_names_are_ours(sent: dict[str, Any], name: str, value: Any) -> None:
    engine = ScriptedEngine(said("a"), max_model_len=64)
    post(scripted_app(engine), "/completion", prompt="a", **sent)
    assert getattr(engine.params[0], name) == value


def test_the_tokens_of_a_whole_answer_are_all_of_them() -> None:
    engine = ScriptedEngine([*said("a", "b", "c"), *said("d", index=1)])
    answers = post(scripted_app(engine), "/completion", prompt="x", n_predict=5, n_cmpl=2).json()
    assert [answer["tokens"] for answer in answers] == [[65, 66, 67], [65]]
