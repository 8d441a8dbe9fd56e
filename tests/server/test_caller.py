"""Who is let in, and how often."""

import json
from typing import Any

import httpx
import pytest

from coderv2.server.caller import MINUTE, Account
from coderv2.server.errors import Refused
from tests.engine.fakes import Clock
from tests.server.fakes import ScriptedEngine, key, keyed_app, request, said
from tests.tiny_tokenizer import tiny_tokenizer

BODY = json.dumps({"prompt": "a<｜fim▁end｜>"})
JSON = {"content-type": "application/json"}


def _ask(app: Any, **headers: str) -> httpx.Response:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return request(app, "POST", "/v1/completions", content=BODY, headers=JSON | headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer secret-al"},
        {"authorization": "bearer  secret-al "},
        {"x_api_key": "secret-al"},
        {"api_key": "secret-al"},
        {"authorization": "Bearer secret-al", "api_key": "secret-al", "x_api_key": "secret-al"},
    ],
)
def test_a_key_may_come_in_three_headers(headers: dict[str, str]) -> None:
    assert _ask(keyed_app(ScriptedEngine(said("a")), key("al")), **headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer "},
        {"authorization": "Bearer"},
        {"authorization": "Basic secret-al"},
        {"authorization": "secret-al"},
        {"authorization": "Bearer secret-al", "api_key": "other"},
        {"authorization": "Basic x", "api_key": "secret-al"},
        {"x_api_key": "secret-bo", "api_key": "secret-al"},
    ],
)
def test_every_other_caller_hears_the_same_words(headers: dict[str, str]) -> None:
    response = _ask(keyed_app(ScriptedEngine(), key("al"), key("bo")), **headers)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (
        401,
        "authentication_error",
        "invalid_api_key",
    )
    assert error["message"] == "this server needs a valid API key: send it as Authorization: Bearer KEY"


def test_each_key_has_a_cache_of_its_own() -> None:
    engine = ScriptedEngine(said("a"), said("a"))
    app = keyed_app(engine, key("al"), key("bo"))
    for name in ("al", "bo"):
        _ask(app, api_key=f"secret-{name}")
    assert [options["tenant"] for options in engine.options] == ["al", "bo"]


def test_a_key_may_lack_the_right_to_control_tokens() -> None:
    engine = ScriptedEngine(said("a"), said("a"))
    app = keyed_app(engine, key("al"), key("bo", control_tokens=False))
    for name in ("al", "bo"):
        _ask(app, api_key=f"secret-{name}")
    fim = tiny_tokenizer().fim
    assert fim is not None
    assert [fim.end in prompt for prompt in engine.prompts] == [True, False]


def test_a_key_hears_what_is_left_and_when_it_is_too_much() -> None:
    app = keyed_app(
        ScriptedEngine(said("a"), said("a")), key("al", requests_per_minute=2, tokens_per_minute=99)
    )
    first = _ask(app, api_key="secret-al").headers
    assert (first["x-ratelimit-limit-requests"], first["x-ratelimit-remaining-requests"]) == ("2", "1")
    assert first["x-ratelimit-reset-requests"].endswith("s")
    assert _ask(app, api_key="secret-al").headers["x-ratelimit-remaining-tokens"] != "99"
    refused = _ask(app, api_key="secret-al")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(refused.headers["retry-after"]) <= 61
    assert int(refused.headers["retry-after-ms"]) <= 60_000


def test_a_minute_later_all_is_forgotten() -> None:
    clock = Clock()
    account = Account(key("al", requests_per_minute=1, tokens_per_minute=10), clock)
    account.begin()
    account.end(50)
    with pytest.raises(Refused, match="1 requests a minute"):
        account.begin()
    clock.now += MINUTE
    account.begin()
    account.end(0)
    assert account.headers()["x-ratelimit-remaining-tokens"] == "10"


def test_so_many_at_once() -> None:
    account = Account(key("al", concurrent=1))
    account.begin()
    with pytest.raises(Refused) as caught:
        account.begin()
    assert (caught.value.failure.status, caught.value.failure.code) == (429, "concurrency_limit")
    account.end(1)
    account.begin()


def test_a_deadline_reaches_the_engine() -> None:
    engine = ScriptedEngine(said("a"))
    assert _ask(keyed_app(engine, key("al")), api_key="secret-al", x_deadline_ms="1500").status_code == 200
    assert engine.options[0]["deadline"] == 1.5
    for wrong in ("0", "-1", "1e3", "x", "9" * 11):
        response = _ask(keyed_app(ScriptedEngine(), key("al")), api_key="secret-al", x_deadline_ms=wrong)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "x-deadline-ms")
