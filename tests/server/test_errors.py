"""Every error in one shape."""

import re
from typing import Any

import pytest

from coderv2 import errors as tree
from coderv2.errors import ContextTooLong, EngineStopped, InvalidValue, QueueFull, ServiceError, Unsupported
from coderv2.server.errors import failure
from tests.server.fakes import Script, ScriptedEngine, events_of, post, request, said, scripted_app

JSON = {"content-type": "application/json"}
CHAT = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("error", "status", "kind", "code", "param"),
    [
        (InvalidValue("bad", param="n"), 400, "invalid_request_error", "invalid_value", "n"),
        (Unsupported("no", param="tools"), 400, "invalid_request_error", "unsupported_parameter", "tools"),
        (ContextTooLong("This model's …"), 400, "invalid_request_error", "context_length_exceeded", None),
        (tree.ModelNotFound("gone"), 404, "not_found_error", "model_not_found", None),
        (QueueFull("full"), 503, "server_error", "overloaded", None),
        (tree.NoAnswer("late"), 504, "server_error", "upstream_timeout", None),
        (EngineStopped("died: secret"), 503, "server_error", "draining", None),
        (ServiceError("secret"), 500, "server_error", "internal_error", None),
        (ValueError("secret"), 500, "server_error", "internal_error", None),
    ],
)
def test_the_table(error: Exception, status: int, kind: str, code: str, param: str | None) -> None:
    told = failure(error, "req_1")
    assert (told.status, told.type, told.code, told.param) == (status, kind, code, param)
    assert "secret" not in told.message
    assert ("retry-after" in told.response("/completions", "req_1").headers) == (status == 503)


def test_every_class_of_the_tree_has_an_answer() -> None:
    classes = [k for k in vars(tree).values() if isinstance(k, type) and issubclass(k, tree.CoderV2Error)]
    for kind in classes:
        expected = (400, 404) if issubclass(kind, tree.UserError) else (500, 503, 504)
        assert failure(kind("text"), "req_1").status in expected


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "prompt", "invalid_value"),
        ({"prompt": "a", "temperature": "hot"}, "temperature", "invalid_value"),
        ({"prompt": "a", "stop_token_ids": [1, -1]}, "stop_token_ids[1]", "invalid_value"),
        (
            {"prompt": "a", "stream_options": {"include_usage": 3}},
            "stream_options.include_usage",
            "invalid_value",
        ),
        ({"prompt": "a", "functions": [{}]}, "functions", "unsupported_parameter"),
        ({"prompt": "a", "n": 2, "best_of": 1}, "best_of", "invalid_value"),
        ({"prompt": "a", "stop": ""}, "stop", "invalid_value"),
        ({"prompt": "a", "min_tokens": 17}, "min_tokens", "invalid_value"),
    ],
)
def test_a_bad_field_is_a_400_that_names_it(body: dict[str, Any], param: str, code: str) -> None:
    response = post(scripted_app(ScriptedEngine(said("a"))), "/v1/completions", **body)
    error = response.json()["error"]
    assert response.status_code == 400
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)


def test_a_bad_part_of_a_message_is_named_with_its_place() -> None:
    parts = [{"type": "input_audio"}]
    response = post(
        scripted_app(ScriptedEngine()),
        "/v1/chat/completions",
        messages=[*CHAT, {"role": "user", "content": parts}],
    )
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("messages[1].content", "unsupported_parameter")


@pytest.mark.parametrize("content", [b"{", b'{"prompt": }', b"\xff\xfe", b"[" * 100_000, b"1" * 5000])
def test_a_body_that_is_not_json_is_invalid_json(content: bytes) -> None:
    response = request(
        scripted_app(ScriptedEngine()), "POST", "/v1/completions", content=content, headers=JSON
    )
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "invalid_json")
    assert re.match("the body is not valid JSON: .", error["message"])


@pytest.mark.parametrize("content", [b"[]", b"7", b'"text"', b"null", b""])
def test_a_body_that_is_no_object_is_an_invalid_value(content: bytes) -> None:
    response = request(
        scripted_app(ScriptedEngine()), "POST", "/v1/completions", content=content, headers=JSON
    )
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_value"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_another_content_type_is_415(kind: str) -> None:
    response = request(
        scripted_app(ScriptedEngine()),
        "POST",
        "/v1/completions",
        content=b'{"prompt":"a"}',
        headers={"content-type": kind},
    )
    assert response.status_code == 415
    assert "content-type: application/json" in response.json()["error"]["message"]


def test_unknown_routes_and_methods() -> None:
    app = scripted_app(ScriptedEngine())
    unknown, wrong = request(app, "GET", "/v1/nothing"), request(app, "GET", "/v1/completions")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json()["error"]["type"] == "invalid_request_error"
    assert wrong.json()["error"]["message"].endswith("use POST")


def test_the_context_message_keeps_the_words_that_clients_match() -> None:
    text = "This model's maximum context length is 64 tokens. However, you requested 99 tokens"
    response = post(
        scripted_app(ScriptedEngine(refuses=ContextTooLong(text))), "/v1/chat/completions", messages=CHAT
    )
    assert response.json()["error"]["message"].startswith("This model's maximum context length is 64 tokens")
    assert response.json()["error"]["code"] == "context_length_exceeded"


def test_a_failure_after_the_first_byte_is_an_event_without_done() -> None:
    script: Script = [*said("a", "b")[:1], ServiceError("secret")]
    response = post(scripted_app(ScriptedEngine(script)), "/v1/completions", prompt="a", stream=True)
    first, last = events_of(response)
    assert first["choices"][0]["text"] == "a"
    assert last["error"]["code"] == "internal_error"
    assert re.search(response.headers["x-request-id"], last["error"]["message"])


def test_a_failure_before_the_answer_is_a_status() -> None:
    app = scripted_app(ScriptedEngine([QueueFull("no room left")]))
    response = post(app, "/v1/completions", prompt="a")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")


def test_messages_do_not_repeat_long_input() -> None:
    response = post(scripted_app(ScriptedEngine()), "/v1/completions", prompt="a", model="x" * 5000)
    assert len(response.json()["error"]["message"]) < 300
