"""The list of models, and the balance."""

from tests.server.fakes import ScriptedEngine, request, scripted_app


def test_the_one_model_has_its_limits_and_abilities() -> None:
    app = scripted_app(ScriptedEngine(max_model_len=128))
    listed = request(app, "GET", "/v1/models").json()
    (card,) = listed["data"]
    assert (listed["object"], card["object"], card["id"]) == ("list", "model", "tiny")
    assert card["max_model_len"] == card["context_length"] == 128
    assert card["abilities"] == {"chat": True, "fim": True, "tools": True, "json_schema": True}
    for name in ("tiny", "deepseek-coder", "DeepSeek-Coder-V2:16b", "default"):
        assert request(app, "GET", f"/v1/models/{name}").json() == card


def test_names_with_slashes_are_names() -> None:
    unknown = request(scripted_app(ScriptedEngine()), "GET", "/v1/models/somebody/something")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


def test_the_balance_is_deepseeks() -> None:
    balance = request(scripted_app(ScriptedEngine()), "GET", "/user/balance").json()
    assert balance == {"is_available": True, "balance_infos": []}
