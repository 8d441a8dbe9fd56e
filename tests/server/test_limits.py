"""Bodies that are too large."""

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from coderv2.server import limits
from tests.server.fakes import ScriptedEngine, request, said, scripted_app

JSON = {"content-type": "application/json"}
LONG = "\n" * 4_000_000
TURNS = [{"role": "user", "content": "\n" * 50}] * 4_096
"""Each of them fits."""


def test_an_announced_body_over_the_limit_is_413() -> None:
    response = request(
        scripted_app(ScriptedEngine()),
        "POST",
        "/v1/completions",
        content=b" " * (limits.MAX_BODY_BYTES + 1),
        headers=JSON,
    )
    assert response.status_code == 413
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert str(limits.MAX_BODY_BYTES) in response.json()["error"]["message"]


def test_a_chunked_body_over_the_limit_is_413_before_it_is_all_read() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 4 * limits.MAX_BODY_BYTES:
            sent += 1 << 20
            yield b" " * (1 << 20)

    app = scripted_app(ScriptedEngine())
    response = request(app, "POST", "/v1/completions", content=endless(), headers=JSON)
    assert response.status_code == 413


@pytest.mark.parametrize("size", [1 << 20, limits.MAX_BODY_BYTES])
def test_a_body_up_to_the_limit_passes(size: int) -> None:
    body = b'{"prompt":[1]}'.ljust(size)
    app = scripted_app(ScriptedEngine(said("a")))
    assert request(app, "POST", "/v1/completions", content=body, headers=JSON).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "limit"),
    [
        ("/v1/completions", {"prompt": LONG}, "This model's maximum context length is 64 tokens"),
        (
            "/v1/completions",
            {"prompt": LONG, "suffix": ""},
            "This model's maximum context length is 64 tokens",
        ),
        ("/v1/chat/completions", {"messages": TURNS}, "This model's maximum context length is 64 tokens"),
        ("/v1/messages", {"messages": TURNS, "max_tokens": 1}, "This model's maximum context length is 64"),
        ("/v1/responses", {"input": LONG}, "This model's maximum context length is 64 tokens"),
        ("/api/generate", {"prompt": LONG}, "This model's maximum context length is 64 tokens"),
        ("/api/generate", {"prompt": LONG, "raw": True}, "This model's maximum context length is 64 tokens"),
        ("/api/chat", {"messages": TURNS}, "This model's maximum context length is 64 tokens"),
        ("/completion", {"prompt": LONG}, "This model's maximum context length is 64 tokens"),
        ("/infill", {"input_prefix": LONG, "input_suffix": ""}, "This model's maximum context length is 64"),
        ("/tokenize", {"content": LONG}, "At most 256 tokens are counted, 4 times the context"),
        ("/v1/messages/count_tokens", {"messages": TURNS}, "At most 256 tokens are counted"),
    ],
)
def test_a_small_body_that_inflates_to_a_long_text_is_refused_before_it_is_tokenized(
    path: str, body: dict[str, Any], limit: str
) -> None:
    """8 KB of gzip held a thread for half a minute."""
    content = gzip.compress(json.dumps({"model": "", **body}).encode())
    headers = JSON | {"content-encoding": "gzip"}
    response = request(
        scripted_app(ScriptedEngine(max_model_len=64)), "POST", path, content=content, headers=headers
    )
    assert len(content) < 1 << 16
    assert response.status_code == 400
    assert limit in response.text


def test_a_text_a_little_longer_than_the_context_is_counted() -> None:
    response = request(
        scripted_app(ScriptedEngine(max_model_len=64)), "POST", "/tokenize", json={"content": "\n" * 200}
    )
    assert len(response.json()["tokens"]) == 200
