"""/v1/completions."""

from dataclasses import replace
from typing import Any

import pytest

from coderv2.server.defaults import SamplingDefaults
from coderv2.text.fim import encode_fim
from coderv2.text.tokenizer import EOS, FIM_BEGIN, FIM_END, FIM_HOLE, Tokenizer
from tests.server.fakes import ScriptedEngine, events_of, post, said, scripted_app
from tests.tiny_tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def _prompts_of(**body: Any) -> list[list[int]]:
    engine = ScriptedEngine(*[said("x")] * 4)
    response = post(scripted_app(engine), "/v1/completions", **body)
    assert response.status_code == 200, response.text
    return engine.prompts


def _error_of(tokenizer: Tokenizer | None = None, **body: Any) -> Any:
    response = post(scripted_app(ScriptedEngine(), tokenizer), "/v1/completions", **body)
    assert response.status_code == 400
    return response.json()["error"]


def test_text_gets_one_bos_and_its_control_tokens_count() -> None:
    bos, fim = TOKENIZER.bos_id, TOKENIZER.fim
    assert fim is not None
    assert _prompts_of(prompt="") == [[bos]]
    (ids,) = _prompts_of(prompt=f"{FIM_BEGIN}a{FIM_HOLE}b{FIM_END}")
    assert ids == encode_fim(TOKENIZER, "a", "b")


def test_prefix_and_suffix_of_a_hole_never_become_control_tokens() -> None:
    (ids,) = _prompts_of(prompt=f"a{EOS}", suffix=FIM_END)
    assert ids == encode_fim(TOKENIZER, f"a{EOS}", FIM_END)
    assert TOKENIZER.eos_id not in ids


@pytest.mark.parametrize(
    ("prefix", "suffix"), [("", ""), ("a", ""), ("", "\n"), ("a\r\n", "\r\nb"), ("\ud800", "b")]
)
def test_raw_fim_text_and_suffix_give_the_same_tokens(prefix: str, suffix: str) -> None:
    raw = _prompts_of(prompt=f"{FIM_BEGIN}{prefix}{FIM_HOLE}{suffix}{FIM_END}")
    assert _prompts_of(prompt=prefix, suffix=suffix) == raw


def test_token_ids_are_taken_as_they_are() -> None:
    assert _prompts_of(prompt=[5, 6]) == [[5, 6]]
    assert _prompts_of(prompt=[[5], [6, 7]]) == [[5], [6, 7]]


def test_a_list_of_texts_is_answered_in_order() -> None:
    engine = ScriptedEngine(said("one"), said("two", "three"))
    answer = post(scripted_app(engine), "/v1/completions", prompt=["a", "b"]).json()
    assert [(c["index"], c["text"]) for c in answer["choices"]] == [(0, "one"), (1, "twothree")]
    assert answer["usage"]["completion_tokens"] == 3


def test_the_answer_has_all_that_strict_readers_want() -> None:
    answer = post(scripted_app(ScriptedEngine(said("a", finish="length"))), "/completions", prompt="p").json()
    assert answer["id"].startswith("cmpl-")
    assert (answer["object"], answer["model"]) == ("text_completion", "tiny")
    assert isinstance(answer["created"], int)
    choice = {"index": 0, "text": "a", "logprobs": None, "finish_reason": "length", "stop_reason": None}
    assert answer["choices"] == [choice]
    assert {"prompt_tokens", "completion_tokens", "total_tokens"} <= answer["usage"].keys()


def test_sixteen_tokens_and_the_models_temperature_by_default() -> None:
    engine = ScriptedEngine(said("a"))
    post(scripted_app(engine, defaults=SamplingDefaults(0.3, 0.95)), "/v1/completions", prompt="a")
    (params,) = engine.params
    assert (params.max_tokens, params.temperature, params.top_p) == (16, 0.3, 0.95)


def test_max_tokens_over_the_context_is_cut_for_holes_only() -> None:
    engine = ScriptedEngine(said("a"), said("a"), max_model_len=64)
    app = scripted_app(engine)
    post(app, "/v1/completions", prompt="ab", suffix="c", max_tokens=1000)
    post(app, "/v1/completions", prompt="ab", max_tokens=1000)
    holed, plain = engine.params
    assert holed.max_tokens == 64 - len(engine.prompts[0])
    assert plain.max_tokens == 1000


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"prompt": ["a"], "suffix": "b"}, "suffix", "invalid_value"),
        ({"prompt": [1], "suffix": "b"}, "suffix", "invalid_value"),
        ({"prompt": "a", "suffix": "b", "echo": True}, "echo", "invalid_value"),
        ({"prompt": "a", "n": 3, "best_of": 2}, "best_of", "invalid_value"),
        ({"prompt": ["a", "b"], "n": 100}, "n", "invalid_value"),
        ({"prompt": "a", "stream_options": {}}, "stream_options", "invalid_value"),
    ],
)
def test_combinations_that_make_no_sense(body: dict[str, Any], param: str, code: str) -> None:
    error = _error_of(**body)
    assert (error["param"], error["code"]) == (param, code)


def test_a_model_without_fim_tokens_says_so() -> None:
    class NoHoles(Tokenizer):
        def __init__(self) -> None:
            self.__dict__ |= TOKENIZER.__dict__
            self.fim = None

    error = _error_of(NoHoles(), prompt="a", suffix="b")
    assert (error["param"], error["code"]) == ("suffix", "unsupported_parameter")
    assert "cannot infill" in error["message"]


def test_best_of_equal_to_n_passes() -> None:
    engine = ScriptedEngine([*said("a"), *said("b", index=1)])
    answer = post(scripted_app(engine), "/v1/completions", prompt="p", n=2, best_of=2).json()
    assert [choice["text"] for choice in answer["choices"]] == ["a", "b"]


def test_echo_puts_the_prompt_in_front_whole_and_streamed() -> None:
    ids = TOKENIZER.encode("two")
    for prompt, shown in (("one \ud800", "one \ud800"), (ids, "two")):
        engine = ScriptedEngine(said(" and"), said(" and"))
        app = scripted_app(engine)
        whole = post(app, "/v1/completions", prompt=prompt, echo=True)
        assert whole.json()["choices"][0]["text"] == f"{shown} and"
        streamed = events_of(post(app, "/v1/completions", prompt=prompt, echo=True, stream=True))
        assert "".join(e["choices"][0]["text"] for e in streamed[:-1]) == f"{shown} and"


@pytest.mark.parametrize(("prompt", "places"), [("ab", 2), ("", 0)])
def test_the_echoed_prompts_logprobs_are_the_same_whole_and_streamed(prompt: str, places: int) -> None:
    of_prompt = said(*["x"] * places, logprobs=True) if places else []
    known = tuple(place for delta in of_prompt for place in delta.logprobs or ())
    first, second = said("c", "d", logprobs=True), said("e", index=1, logprobs=True)
    script = [replace(first[0], prompt_logprobs=known), second[0], first[1]]
    app = scripted_app(ScriptedEngine(script, script))
    body = {"prompt": prompt, "echo": True, "logprobs": 1, "n": 2}
    whole = post(app, "/v1/completions", **body).json()["choices"]
    streamed: dict[int, dict[str, list[Any]]] = {}
    for event in events_of(post(app, "/v1/completions", **body, stream=True))[:-1]:
        for choice in event["choices"]:
            for name, values in (choice["logprobs"] or {}).items():
                streamed.setdefault(choice["index"], {}).setdefault(name, []).extend(values)
    assert [choice["logprobs"] for choice in whole] == [streamed[0], streamed[1]]
    assert [len(choice["logprobs"]["tokens"]) for choice in whole] == [places + 3, places + 2]


def test_stream_ends_with_reason_then_done_and_never_an_empty_choice_list() -> None:
    engine = ScriptedEngine(said("a", "", "b"))
    response = post(scripted_app(engine), "/v1/completions", prompt="p", stream=True)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, done = events_of(response)
    assert done == "[DONE]"
    assert all(len(chunk["choices"]) == 1 and "usage" not in chunk for chunk in chunks)
    assert [(c["choices"][0]["text"], c["choices"][0]["finish_reason"]) for c in chunks] == [
        ("a", None),
        ("b", None),
        ("", "stop"),
    ]


def test_usage_is_one_last_chunk_and_null_before() -> None:
    engine = ScriptedEngine([*said("a"), *said("b", index=1)])
    response = post(
        scripted_app(engine),
        "/v1/completions",
        prompt="p",
        n=2,
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, usage, _ = events_of(response)
    assert all(chunk["usage"] is None for chunk in chunks)
    assert {c["choices"][0]["index"] for c in chunks if c["choices"][0]["finish_reason"]} == {0, 1}
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 2)


def test_logprobs_in_parallel_lists() -> None:
    engine = ScriptedEngine(said("a", "b", logprobs=True), said("a", "b", logprobs=True))
    app = scripted_app(engine)
    (choice,) = post(app, "/v1/completions", prompt="p", logprobs=2).json()["choices"]
    assert choice["logprobs"]["token_logprobs"] == [-0.5, -0.5]
    assert len(choice["logprobs"]["top_logprobs"][0]) == 2
    *chunks, _ = events_of(post(app, "/v1/completions", prompt="p", logprobs=2, stream=True))
    assert [c["choices"][0]["logprobs"]["text_offset"] for c in chunks[:-1]] == [[0], [1]]
    assert engine.params[0].logprobs == 2
