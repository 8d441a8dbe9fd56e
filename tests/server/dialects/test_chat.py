"""/v1/chat/completions."""

from typing import Any

import pytest

from coderv2.engine.request import SamplingParams
from coderv2.text.chat import Message, encode_chat
from coderv2.text.tokenizer import EOS
from tests.server.fakes import ScriptedEngine, events_of, post, said, scripted_app
from tests.tiny_tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
HI = {"role": "user", "content": "Hi"}


def _chat(script: Any = None, **body: Any) -> tuple[Any, ScriptedEngine]:
    engine = ScriptedEngine(script or said("Hello"))
    response = post(scripted_app(engine), "/v1/chat/completions", **{"messages": [HI], **body})
    assert response.status_code == 200, response.text
    return response, engine


def _params(**body: Any) -> SamplingParams:
    return _chat(**body)[1].params[0]


def _error_of(**body: Any) -> Any:
    response = post(scripted_app(ScriptedEngine()), "/v1/chat/completions", **{"messages": [HI], **body})
    assert response.status_code == 400
    return response.json()["error"]


def test_messages_of_every_role_go_through_the_template() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        HI,
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
        {"role": "user", "content": "now"},
    ]
    _, engine = _chat(messages=messages)
    texts = ["Be brief.", "Be kind.", "Hi", "Hello", "Bye", "now"]
    roles = [message["role"] for message in messages]
    expected = [Message(role, text) for role, text in zip(roles, texts, strict=True)]
    assert engine.prompts == [encode_chat(TOKENIZER, expected)]


def test_markers_in_messages_stay_text() -> None:
    _, engine = _chat(messages=[{"role": "user", "content": EOS}])
    assert TOKENIZER.eos_id not in engine.prompts[0]


def test_the_answer_is_whole_and_without_the_templates_space() -> None:
    answer = _chat(said(" Hel", "lo"))[0].json()
    assert answer["id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hello", "refusal": None}
    assert (choice["finish_reason"], choice["logprobs"]) == ("stop", None)
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


def test_stream_starts_with_the_role_and_ends_with_the_reason() -> None:
    response, _ = _chat(said(" ", "", " Hel", "lo"), stream=True)
    *chunks, done = events_of(response)
    assert done == "[DONE]"
    assert all(c["object"] == "chat.completion.chunk" and "usage" not in c for c in chunks)
    choices = [c["choices"][0] for c in chunks]
    assert [c["delta"] for c in choices] == [
        {"role": "assistant", "content": ""},
        {"content": " Hel"},
        {"content": "lo"},
        {"content": ""},
    ]
    assert [c["finish_reason"] for c in choices] == [None, None, None, "stop"]


def test_streamed_choices_each_get_a_role_and_a_reason() -> None:
    response, _ = _chat(
        [*said("a"), *said("b", index=1)], n=2, stream=True, stream_options={"include_usage": True}
    )
    *chunks, usage, _ = events_of(response)
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 2)
    choices = [c["choices"][0] for c in chunks]
    assert all(c["usage"] is None for c in chunks)
    assert [c["index"] for c in choices if "role" in c["delta"]] == [0, 1]
    assert {c["index"]: c["finish_reason"] for c in choices if c["finish_reason"]} == {0: "stop", 1: "stop"}


def test_a_prefix_is_continued_and_only_the_new_text_comes_back() -> None:
    messages = [HI, {"role": "assistant", "content": "def f(", "prefix": True}]
    response, engine = _chat(said(" x", ")"), messages=messages)
    assert response.json()["choices"][0]["message"]["content"] == " x)"
    expected = [Message("user", "Hi"), Message("assistant", "def f(")]
    assert engine.prompts == [
        encode_chat(TOKENIZER, expected, add_generation_prompt=False, continue_last=True)
    ]


@pytest.mark.parametrize("nothing", ["", " "])
def test_an_empty_prefix_is_a_plain_question(nothing: str) -> None:
    _, engine = _chat(messages=[HI, {"role": "assistant", "content": nothing, "prefix": True}])
    assert engine.prompts == [encode_chat(TOKENIZER, [Message("user", "Hi")])]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "assistant", "content": "", "prefix": True}], "messages"),
        ([{"role": "assistant", "content": "a", "prefix": True}, HI], "messages[0].prefix"),
        ([HI | {"prefix": True}], "messages[0].prefix"),
        ([HI, {"role": "robot", "content": "a"}], "messages[1].role"),
        ([{"role": "user"}], "messages[0]"),
        ([], "messages"),
    ],
)
def test_messages_that_make_no_sense_are_named(messages: Any, param: str) -> None:
    assert _error_of(messages=messages)["param"] == param


def test_both_names_of_the_limit() -> None:
    assert _params().max_tokens is None
    assert _params(max_tokens=5).max_tokens == 5
    assert _params(max_completion_tokens=6).max_tokens == 6
    assert _params(max_tokens=7, max_completion_tokens=7).max_tokens == 7
    assert _error_of(max_tokens=5, max_completion_tokens=6)["param"] == "max_completion_tokens"


def test_log_probabilities_as_a_list_of_tokens() -> None:
    response, engine = _chat(said("a", "b", logprobs=True), logprobs=True, top_logprobs=2)
    content = response.json()["choices"][0]["logprobs"]["content"]
    assert [len(token["top_logprobs"]) for token in content] == [2, 2]
    assert engine.params[0].logprobs == 2
    assert _params(logprobs=True).logprobs == 0
    assert _params(logprobs=False).logprobs is None
    assert _error_of(top_logprobs=2)["param"] == "top_logprobs"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("functions", [{"name": "f"}]),
        ("modalities", ["audio"]),
        ("web_search_options", {}),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(field: str, value: Any) -> None:
    error = _error_of(**{field: value})
    assert (error["param"], error["code"]) == (field, "unsupported_parameter")


def test_harmless_values_of_such_fields_pass() -> None:
    _chat(tools=[], tool_choice="none", response_format={"type": "text"}, user="u", metadata=None)
