"""Every route is guarded, and every reply has its headers."""

import re

import httpx
import pytest
from fastapi import FastAPI

from coderv2.server.app import create_app
from coderv2.server.door import Door
from coderv2.server.guard import GuardedRoute
from tests.server.fakes import ScriptedEngine, key, keyed_app, request

OPEN = {"/health", "/ready"}
EXPECTED = {
    "/chat/completions", "/completions", "/fim/completions", "/infill", "/completion", "/tokenize", "/detokenize",
    "/apply-template", "/props", "/api/generate", "/api/chat", "/api/show", "/api/tags", "/api/version", "/",
    "/responses", "/responses/{id}", "/responses/{id}/cancel", "/messages", "/messages/count_tokens", "/models",
    "/models/{name:path}", "/user/balance", "/events", "/v1beta/server_setting",
    "/health", "/ready", "/metrics", "/openapi.json",
}  # fmt: skip


def _app() -> FastAPI:
    return keyed_app(ScriptedEngine(), key("al"))


def _routes(app: FastAPI) -> list[tuple[str, str]]:
    return [
        (method, route.path)  # type: ignore[attr-defined]
        for route in app.routes
        for method in sorted(route.methods)  # type: ignore[attr-defined]
    ]


def test_every_route_is_a_guarded_one_and_all_are_known() -> None:
    app = _app()
    assert all(isinstance(route, GuardedRoute) for route in app.routes)
    assert {path for _, path in _routes(app)} == EXPECTED


@pytest.mark.parametrize("root", ["", "/v1", "/beta", "/anthropic/v1", "//v1/"])
def test_without_a_key_every_route_but_the_open_ones_is_401(root: str) -> None:
    app = _app()
    for method, path in _routes(app):
        response = request(app, method, root + re.sub(r"{.*?}", "x", path), content=b"not even JSON")
        assert response.status_code == (200 if path in OPEN else 401), (method, path)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/completions/../metrics",
        "/health/../metrics",
        "/%2e%2e/metrics",
        "/metrics/",
        "//metrics",
        "/v1//metrics",
    ],
)
def test_no_spelling_of_a_path_gets_around_the_guard(path: str) -> None:
    assert request(_app(), "GET", path).status_code in (401, 404, 405)


def test_a_route_that_somebody_adds_is_closed() -> None:
    app = _app()

    @app.get("/debug")
    async def get_debug() -> str:
        return "secret"

    assert request(app, "GET", "/debug").status_code == 401


def test_every_reply_has_its_headers() -> None:
    app = _app()
    good = {"authorization": "Bearer secret-al"}
    replies = [
        request(app, "GET", "/v1/models", headers=good),
        request(app, "GET", "/v1/models"),
        request(app, "GET", "/nothing"),
        request(app, "PUT", "/v1/models", headers=good),
        request(app, "GET", "/health", headers={"host": "evil.example"}),
        request(app, "GET", "/health", headers={"x": "y" * 40_000}),
    ]
    assert [reply.status_code for reply in replies] == [200, 401, 404, 405, 403, 431]
    for reply in replies:
        assert re.fullmatch(r"req_[0-9a-f]{32}", reply.headers["x-request-id"])
        assert reply.headers["openai-processing-ms"].isdigit()


def test_while_it_loads_only_its_state_is_told() -> None:
    app = create_app(Door())
    ready = request(app, "GET", "/ready")
    assert (ready.status_code, ready.json(), ready.headers["retry-after"]) == (
        503,
        {"status": "loading"},
        "1",
    )
    assert request(app, "GET", "/health").json() == {"status": "loading"}
    body = {"content": b'{"prompt": "a"}', "headers": {"content-type": "application/json"}}
    refused = request(app, "POST", "/v1/completions", **body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "loading")
    assert request(app, "GET", "/metrics").status_code == 200


def test_while_it_drains_nothing_new_begins() -> None:
    app = keyed_app(ScriptedEngine(), key("al"))
    app.state.door.draining = True
    headers = {"content-type": "application/json", "api-key": "secret-al"}
    refused = request(app, "POST", "/v1/completions", content=b'{"prompt": "a"}', headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert request(app, "GET", "/ready").json() == {"status": "draining"}


def test_a_dead_engine_is_neither_healthy_nor_ready() -> None:
    engine = ScriptedEngine()
    engine.alive = False
    app = keyed_app(engine, key("al"))
    states: list[httpx.Response] = [request(app, "GET", path) for path in ("/health", "/ready")]
    assert [reply.status_code for reply in states] == [503, 503]
