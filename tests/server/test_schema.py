"""Types and ranges at the edge."""

import importlib
import logging
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from coderv2.server import schema
from coderv2.server.schema.base import MAX_TURNS, Wire
from coderv2.server.schema.openai import ChatRequest, CompletionRequest
from tests.server.fakes import ScriptedEngine, post, scripted_app


def _problem(kind: type[CompletionRequest] | type[ChatRequest], **body: Any) -> dict[str, Any]:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)
    problems = caught.value.errors()
    assert len(problems) == 1
    return dict(problems[0])


@pytest.mark.parametrize("prompt", ["", "text", ["a", ""], [1, 2], [[1], [2, 3]], ["x"] * 128])
def test_a_prompt_is_text_or_token_ids_or_a_list_of_either(prompt: Any) -> None:
    assert CompletionRequest.model_validate({"prompt": prompt}).prompt == prompt


@pytest.mark.parametrize("prompt", [[], 5, {"a": 1}, ["a", 1], [1, "a"], [1.5], [True], ["x"] * 129])
def test_any_other_prompt_is_one_problem_of_the_field(prompt: Any) -> None:
    problem = _problem(CompletionRequest, prompt=prompt)
    assert problem["loc"] == ("prompt",)
    assert "text, token ids, or a list of 1 to 128 of these" in problem["msg"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", float("nan")),
        ("temperature", "1"),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_k", -2),
        ("min_p", 1.5),
        ("n", 0),
        ("n", 129),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("max_tokens", float("inf")),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -2.5),
        ("repetition_penalty", 0),
        ("logprobs", 21),
        ("logprobs", True),
        ("seed", 2**64),
        ("stop", 7),
        ("stop", ["a", 7]),
        ("stop", ["x"] * 17),
        ("stop", "x" * 257),
        ("stop", ["é" * 129]),
        ("stream", "yes"),
        ("suffix", 3),
        ("model", 3),
        ("stream_options", True),
    ],
)
def test_a_value_out_of_range_or_of_the_wrong_type_is_named(field: str, value: Any) -> None:
    assert _problem(CompletionRequest, prompt="a", **{field: value})["loc"][0] == field


def test_sixteen_stops_of_256_bytes_are_taken() -> None:
    stops = [chr(ord("a") + i) * 256 for i in range(16)]
    assert CompletionRequest.model_validate({"prompt": "a", "stop": stops}).stop == stops


def test_null_counts_as_absent() -> None:
    body = {"prompt": "a", "suffix": None, "max_tokens": None, "stop": None, "stream": None, "n": None}
    assert CompletionRequest.model_validate(body) == CompletionRequest(prompt="a")


def test_null_for_what_is_required_counts_as_absent_too() -> None:
    assert _problem(CompletionRequest, prompt=None)["type"] == "missing"


def test_unknown_fields_are_ignored_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "coderv2"):
        CompletionRequest.model_validate({"prompt": "secret text", "zebra": 1, "apple": "secret"})
    assert caplog.messages == ["fields of CompletionRequest not known here: apple, zebra"]


def test_token_ids_of_logit_bias_are_written_as_text() -> None:
    request = CompletionRequest.model_validate({"prompt": "a", "logit_bias": {"5": -100, "7": 1.5}})
    assert request.logit_bias == {5: -100, 7: 1.5}
    problem = _problem(CompletionRequest, prompt="a", logit_bias={"five": 1})
    assert problem["loc"][0] == "logit_bias"


def test_content_may_come_in_text_parts() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    request = ChatRequest.model_validate({"messages": [{"role": "user", "content": parts}]})
    assert request.messages[0].content == "one two"


def test_a_part_that_is_no_text_is_unsupported() -> None:
    problem = _problem(
        ChatRequest,
        messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
    )
    assert problem["type"] == "unsupported_parameter"
    assert problem["loc"] == ("messages", 0, "content")


@pytest.mark.parametrize("content", [5, [5], [{"type": "text"}], {"text": "a"}])
def test_other_contents_are_refused(content: Any) -> None:
    messages = [{"role": "user", "content": content}]
    assert _problem(ChatRequest, messages=messages)["loc"] == ("messages", 0, "content")


def test_a_chat_needs_a_message_and_has_eight_answers_at_most() -> None:
    assert _problem(ChatRequest, messages=[])["loc"] == ("messages",)
    assert _problem(ChatRequest, messages=[{"role": "user", "content": "a"}], n=9)["loc"] == ("n",)


def _wires(kind: type[Wire] = Wire) -> Iterator[type[Wire]]:
    for heir in kind.__subclasses__():
        yield heir
        yield from _wires(heir)


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
    for child in schema.values() if isinstance(schema, dict) else schema:
        if isinstance(child, dict | list | tuple):
            yield from _nodes(child)


def test_every_list_is_read_up_to_its_first_wrong_element() -> None:
    for module in pkgutil.iter_modules(schema.__path__):
        importlib.import_module(f"{schema.__name__}.{module.name}")
    lists = [
        (kind.__name__, node)
        for kind in _wires()
        for node in _nodes(kind.__pydantic_core_schema__)
        if node.get("type") == "list"
    ]
    assert len(lists) > 20
    assert [name for name, node in lists if not node.get("fail_fast")] == []


HI: dict[str, Any] = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [1] * 100}),
        ("/v1/chat/completions", {"messages": [HI] * (MAX_TURNS + 1)}),
        ("/v1/chat/completions", {"messages": [HI], "logit_bias": {str(i): "a" for i in range(5000)}}),
        ("/v1/chat/completions", {"messages": [HI], "stop_token_ids": [""] * 100}),
        ("/v1/messages", {"max_tokens": 3, "messages": [1] * 100}),
        ("/v1/messages", {"max_tokens": 3, "messages": [HI] * (MAX_TURNS + 1)}),
        ("/v1/responses", {"input": [HI] * (MAX_TURNS + 1)}),
        ("/v1/responses", {"input": "Hi", "metadata": {str(i): 1 for i in range(17)}}),
        ("/api/chat", {"messages": [HI] * (MAX_TURNS + 1)}),
        ("/detokenize", {"tokens": [""] * 100}),
        ("/apply-template", {"messages": [HI] * (MAX_TURNS + 1)}),
    ],
)
def test_of_many_mistakes_one_is_noted(
    path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[int] = []
    errors = RequestValidationError.errors

    def counted(error: RequestValidationError) -> Any:
        found = errors(error)
        noted.append(len(found))
        return found

    monkeypatch.setattr(RequestValidationError, "errors", counted)
    assert post(scripted_app(ScriptedEngine()), path, **body).status_code == 400
    assert noted == [1]


@pytest.mark.parametrize("metadata", [{"a": "x" * 513}, {"a" * 65: "x"}, {"a": 1}])
def test_metadata_are_short_texts(metadata: dict[str, Any]) -> None:
    reply = post(scripted_app(ScriptedEngine()), "/v1/responses", input="Hi", metadata=metadata)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"].startswith("metadata.")
