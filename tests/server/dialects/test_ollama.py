"""Ollama's options, formats and lines."""

from typing import Any

import pytest

from tests.server.fakes import ScriptedEngine, lines_of, post, said, scripted_app

HI = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        ({"num_predict": 7}, "max_tokens", 7),
        ({"num_predict": -1}, "max_tokens", 62),
        ({"num_predict": -2}, "max_tokens", 62),
        ({"temperature": 0}, "temperature", 0),
        ({"top_k": 5}, "top_k", 5),
        ({"repeat_penalty": 1.5}, "repetition_penalty", 1.5),
        ({"stop": ["a"]}, "stops", ("a",)),
        ({"num_ctx": 4096, "num_gpu": 1}, "top_k", 0),
    ],
)
def test_options_reach_the_engine(options: dict[str, Any], name: str, value: Any) -> None:
    engine = ScriptedEngine(said("a"), max_model_len=64)
    assert (
        post(scripted_app(engine), "/api/generate", prompt="a", raw=True, options=options).status_code == 200
    )
    assert getattr(engine.params[0], name) == value


@pytest.mark.parametrize("options", [{"num_predict": -3}, {"temperature": 3}, {"stop": 5}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    refused = post(scripted_app(ScriptedEngine()), "/api/generate", prompt="a", options=options)
    assert (refused.status_code, list(refused.json())) == (400, ["error"])


def test_a_format_is_a_grammar() -> None:
    engine = ScriptedEngine(said("{}"), said("{}"))
    app = scripted_app(engine)
    post(app, "/api/chat", messages=HI, format="json")
    post(app, "/api/chat", messages=HI, format={"type": "object"})
    loose, bound = (params.structured_outputs for params in engine.params)
    assert loose is not None
    assert bound is not None
    assert (loose.json_object, bound.json) == (True, {"type": "object"})


def test_the_lines_say_what_the_whole_answer_says() -> None:
    app = scripted_app(ScriptedEngine(said(" a", "b", finish="length"), said(" a", "b", finish="length")))
    *lines, last = lines_of(post(app, "/api/chat", messages=HI))
    whole = post(app, "/api/chat", messages=HI, stream=False).json()
    assert "".join(line["message"]["content"] for line in lines) == whole["message"]["content"] == "ab"
    counts = ("done", "done_reason", "prompt_eval_count", "eval_count")
    assert [last[name] for name in counts] == [whole[name] for name in counts]
