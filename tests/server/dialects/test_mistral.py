"""Mistral's holes."""

from coderv2.text.fim import encode_fim
from tests.server.fakes import ScriptedEngine, events_of, post, said, scripted_app
from tests.tiny_tokenizer import tiny_tokenizer


def test_whole_and_streamed_say_the_same() -> None:
    engine = ScriptedEngine(said("a", "b"), said("a", "b"))
    app = scripted_app(engine)
    whole = post(app, "/v1/fim/completions", prompt="x", suffix="y").json()
    *chunks, done = events_of(post(app, "/v1/fim/completions", prompt="x", suffix="y", stream=True))
    assert done == "[DONE]"
    assert (
        "".join(c["choices"][0]["delta"]["content"] for c in chunks)
        == whole["choices"][0]["message"]["content"]
    )
    assert chunks[-1]["usage"] == whole["usage"]
    assert engine.prompts == [encode_fim(tiny_tokenizer(), "x", "y")] * 2


def test_their_names_reach_the_engine_and_the_room_is_the_limit() -> None:
    engine = ScriptedEngine(said("a"), said("a"), max_model_len=64)
    app = scripted_app(engine)
    post(app, "/v1/fim/completions", prompt="x", random_seed=7, min_tokens=2, stop=["z"], max_tokens=1000)
    post(app, "/v1/fim/completions", prompt="x", suffix=None)
    first, second = engine.params
    room = 64 - len(engine.prompts[0])
    assert (first.seed, first.min_tokens, first.stops, first.max_tokens) == (7, 2, ("z",), room)
    assert second.max_tokens == room
