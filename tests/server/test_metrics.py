"""Prometheus's page."""

import re

from tests.server.fakes import ScriptedEngine, post, request, said, scripted_app


def _values(page: str) -> dict[str, float]:
    return {
        name: float(value) for name, value in re.findall(r"^(coderv2_[^ ]+) ([^ ]+)$", page, re.MULTILINE)
    }


def test_requests_tokens_and_times_are_counted_by_route() -> None:
    app = scripted_app(ScriptedEngine(said("a", "b"), said("c")))
    post(app, "/v1/completions", prompt="a")
    post(app, "/chat/completions", messages=[{"role": "user", "content": "a"}], stream=True)
    post(app, "/beta/completions", prompt=5)
    values = _values(request(app, "GET", "/metrics").text)
    assert values['coderv2_requests_total{route="/completions",status="200"}'] == 1
    assert values['coderv2_requests_total{route="/completions",status="400"}'] == 1
    assert values['coderv2_tokens_total{kind="completion",route="/completions"}'] == 2
    assert values['coderv2_first_token_seconds_count{route="/chat/completions"}'] == 1
    assert values['coderv2_between_tokens_seconds_count{route="/completions"}'] == 1
    assert values["coderv2_open_requests"] == 0
    assert values['coderv2_engine_pages_total{engine="chat"}'] == 10
    assert values['coderv2_engine_waiting{engine="chat"}'] == 2


def test_paths_that_do_not_exist_share_one_name() -> None:
    app = scripted_app(ScriptedEngine())
    for number in range(3):
        request(app, "GET", f"/nothing/{number}")
    values = _values(request(app, "GET", "/metrics").text)
    assert values['coderv2_requests_total{route="none",status="404"}'] == 3
