"""What went wrong in servers of this kind, once each: see the name of the test for the case."""

import gzip
import json
import zlib
from typing import Any

import pytest

from coderv2.server import limits
from coderv2.server.app import create_app
from coderv2.server.backend import Backend
from coderv2.server.door import Door
from coderv2.server.models import Models
from tests.server.fakes import ScriptedEngine, key, keyed_app, post, request, said, scripted_app
from tests.tiny_tokenizer import tiny_tokenizer

JSON = {"content-type": "application/json"}
HI = [{"role": "user", "content": "Hi"}]


def _status(content: bytes, path: str = "/v1/completions", **headers: str) -> Any:
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    return request(
        scripted_app(ScriptedEngine(said("a"))), "POST", path, content=content, headers=JSON | told
    )


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "a/../b", "x:y"]
)
def test_vllm_cve_2026_48746_host_header_in_the_url(host: str) -> None:
    app = keyed_app(ScriptedEngine(), key("al"))
    reply = request(app, "GET", "/v1/models", headers={"host": host, "api-key": "secret-al"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "host_not_allowed")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:9", "[::1]:8000", "[::1]", "10.0.0.7", "me.lan:1"]
)
def test_ollama_cve_2024_28224_dns_rebinding_leaves_right_names_alone(host: str) -> None:
    models = Models.of("tiny", Backend(ScriptedEngine(), tiny_tokenizer()))
    app = create_app(Door(models), hosts=["Me.lan"])
    assert request(app, "GET", "/v1/models", headers={"host": host}).status_code == 200


def test_gradio_null_origin_cors_is_off_by_default() -> None:
    app = scripted_app(ScriptedEngine())
    for origin in ("null", "https://evil.example"):
        reply = request(app, "GET", "/v1/models", headers={"origin": origin})
        assert not [name for name in reply.headers if name.startswith("access-control")]


def test_llama_cpp_echoed_any_origin_only_listed_ones_are_allowed() -> None:
    models = Models.of("tiny", Backend(ScriptedEngine(), tiny_tokenizer()))
    app = create_app(Door(models), origins=["https://good.example"])
    good = request(app, "GET", "/v1/models", headers={"origin": "https://good.example"})
    bad = request(app, "GET", "/v1/models", headers={"origin": "https://evil.example"})
    assert good.headers["access-control-allow-origin"] == "https://good.example"
    assert "access-control-allow-origin" not in bad.headers
    assert "access-control-allow-credentials" not in good.headers


def test_vllm_cve_2025_48956_giant_headers() -> None:
    reply = _status(b'{"prompt": "a"}', x_long="y" * limits.MAX_HEADER_BYTES)
    assert reply.status_code == 431


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_a_bomb_is_counted_as_it_unfolds(pack: Any) -> None:
    encoding = "gzip" if pack is gzip.compress else "deflate"
    bomb = pack(b" " * (4 * limits.MAX_BODY_BYTES))
    assert len(bomb) < 1 << 17
    assert _status(bomb, content_encoding=encoding).status_code == 413
    assert _status(pack(b'{"prompt": "a"}'), content_encoding=encoding).status_code == 200
    assert _status(b"no such format", content_encoding=encoding).status_code == 400
    assert _status(b"{}", content_encoding="br").status_code == 415


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "-Infinity", "1e999", "9223372036854775808", "-9223372036854775809"]
)
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/completions", "max_tokens"),
        ("/v1/completions", "temperature"),
        ("/v1/completions", "top_k"),
        ("/v1/completions", "logprobs"),
        ("/v1/completions", "min_tokens"),
        ("/completion", "n_predict"),
        ("/completion", "id_slot"),
        ("/completion", "t_max_predict_ms"),
        ("/completion", "n_indent"),
        ("/v1/fim/completions", "max_tokens"),
    ],
)
def test_llama_cpp_cve_2026_21869_numbers_beyond_their_range(path: str, field: str, text: str) -> None:
    reply = _status(b'{"prompt": "a", "%s": %s}' % (field.encode(), text.encode()), path)
    assert reply.status_code == 400, reply.text


@pytest.mark.parametrize("field", ["prompt", "logit_bias", "stop_token_ids"])
def test_llama_cpp_cve_2025_52566_token_ids_of_any_size(field: str) -> None:
    for number in (-1, 2**31, 2**63, 2**64):
        value: Any = {str(number): 1} if field == "logit_bias" else [number]
        body = {"prompt": "a", field: value}
        reply = _status(json.dumps(body).encode())
        # The scripted engine takes any id that fits; what does not is refused before it.
        assert reply.status_code in ((200, 400) if field == "logit_bias" else (400,))


def test_vllm_cve_2025_48944_a_bad_schema_fails_its_request_only() -> None:
    engine = ScriptedEngine(said("a"))
    app = scripted_app(engine)
    for schema in ({"type": 5}, {"$ref": "#/nowhere"}, {"pattern": "("}):
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        reply = post(app, "/v1/chat/completions", messages=HI, tools=[tool], tool_choice={"bad": 1})
        assert reply.status_code == 400
    assert post(app, "/v1/completions", prompt="a").status_code == 200


def test_vllm_cve_2025_62426_no_template_comes_from_a_request() -> None:
    reply = post(
        scripted_app(ScriptedEngine()), "/v1/chat/completions", messages=HI, chat_template="{{ 7 * 7 }}"
    )
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "chat_template")


@pytest.mark.parametrize("deep", [65, 1000, 100_000])
def test_json_that_nests_too_deep(deep: int) -> None:
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        value = opening * deep + "1" + closing * deep
        reply = _status(b'{"prompt": "a", "metadata": %s}' % value.encode())
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_json")
    assert _status(b'{"prompt": "a", "metadata": %s}' % (b"[" * 60 + b"]" * 60)).status_code == 200


@pytest.mark.parametrize("url", ["http://169.254.169.254/", "file:///etc/passwd", "data:image/png;base64,AA"])
def test_gradio_cve_2026_28416_no_url_of_a_request_is_fetched(url: str) -> None:
    content = [{"type": "image_url", "image_url": {"url": url}}]
    body = {"messages": [{"role": "user", "content": content}]}
    reply = post(scripted_app(ScriptedEngine()), "/v1/chat/completions", **body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "unsupported_parameter")


def test_librechat_cve_2026_31950_anothers_response_looks_like_none() -> None:
    app = keyed_app(ScriptedEngine(said("a")), key("al"), key("bo"))
    mine, theirs = {"api-key": "secret-al"}, {"api-key": "secret-bo"}
    made = request(app, "POST", "/v1/responses", content=b'{"input": "Hi"}', headers=JSON | mine).json()["id"]
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel")):
        reply = request(app, method, f"/v1/responses/{made}{path}", headers=theirs)
        absent = request(app, method, f"/v1/responses/{made[:-1]}x{path}", headers=theirs)
        assert reply.status_code == absent.status_code == 404
        assert reply.json()["error"]["code"] == absent.json()["error"]["code"] == "not_found"
    assert request(app, "GET", f"/v1/responses/{made}", headers=mine).status_code == 200


def test_open_webui_log_injection_and_prompts_in_logs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "coderv2"):
        _status(b'{"prompt": "the secret text"}')
        request(scripted_app(ScriptedEngine()), "GET", "/a%0Astatus=200 id=forged")
    assert "secret" not in caplog.text
    assert all("\n" not in message and "status=200 id=forged" not in message for message in caplog.messages)


def test_starlette_cve_2025_62727_ranges_mean_nothing() -> None:
    ranges = "bytes=" + ",".join(f"{i}-{i}" for i in range(2000))
    assert (
        request(scripted_app(ScriptedEngine()), "GET", "/v1/models", headers={"range": ranges}).status_code
        == 200
    )
