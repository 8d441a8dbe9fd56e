"""Ids, log lines, and failures that nobody foresaw."""

import json
import logging
import re

import pytest

from coderv2.server.limits import MAX_HEADER_BYTES
from tests.server.fakes import ScriptedEngine, events_of, post, request, said, scripted_app


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/health", 200), ("GET", "/v1/models", 200), ("GET", "/nowhere", 404), ("PUT", "/health", 405)],
)
def test_every_reply_has_an_id_of_its_own(method: str, path: str, status: int) -> None:
    app = scripted_app(ScriptedEngine())
    first, second = (request(app, method, path) for _ in range(2))
    assert first.status_code == status
    assert re.fullmatch(r"req_[0-9a-f]{32}", first.headers["x-request-id"])
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


def test_a_bug_is_a_500_that_tells_only_the_id(caplog: pytest.LogCaptureFixture) -> None:
    app = scripted_app(ScriptedEngine(refuses=RuntimeError("secret detail")))
    response = post(app, "/v1/completions", prompt="a")
    error = response.json()["error"]
    assert response.status_code == 500
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert response.headers["x-request-id"] in error["message"]
    assert "secret" not in response.text
    assert "secret detail" in caplog.text


def test_one_line_for_a_request_with_counts_and_without_text(caplog: pytest.LogCaptureFixture) -> None:
    app = scripted_app(ScriptedEngine(said("the answer")))
    with caplog.at_level(logging.INFO, "coderv2"):
        response = post(app, "/v1/completions", prompt="the prompt", stream=True)
    assert events_of(response)[-1] == "[DONE]"
    (line,) = caplog.messages
    expected = (
        r"method=POST path=/v1/completions status=200 ms=\d+ id=req_[0-9a-f]{32} "
        r"prompt=\d+ cached=0 completion=1 first_ms=\d+"
    )
    assert re.fullmatch(expected, line)
    assert "the prompt" not in line


def test_a_path_cannot_forge_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "coderv2"):
        request(scripted_app(ScriptedEngine()), "GET", "/a%0AINFO forged")
    assert "\n" not in caplog.messages[0]


@pytest.mark.parametrize("path", ["/messages", "/v1/messages", "/anthropic/v1/messages", "//v1//messages/"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 500),
        ({"host": "evil.example"}, 403),
        ({"content-encoding": "br"}, 415),
        ({"x": "x" * MAX_HEADER_BYTES}, 431),
    ],
)
def test_a_failure_outside_of_the_routes_has_the_body_of_its_family_under_every_root(
    path: str, headers: dict[str, str], status: int
) -> None:
    app = scripted_app(ScriptedEngine(refuses=RuntimeError("broken")))
    sent = json.dumps({"max_tokens": 3, "messages": [{"role": "user", "content": "a"}]})
    said_json = {"content-type": "application/json"}
    reply = request(app, "POST", path, content=sent, headers=said_json | headers)
    assert reply.status_code == status
    assert reply.json().keys() == {"type", "error", "request_id"}


def test_a_bug_below_another_root_of_ollamas_is_told_as_ollama_does() -> None:
    app = scripted_app(ScriptedEngine(refuses=RuntimeError("broken")))
    for path in ("/api/chat", "/v1/api/chat"):
        reply = post(app, path, messages=[{"role": "user", "content": "a"}])
        assert (reply.status_code, reply.json().keys()) == (500, {"error"})
        assert isinstance(reply.json()["error"], str)
