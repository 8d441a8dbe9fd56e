"""Bodies that are too large."""

from collections.abc import AsyncIterator

import pytest

from coderv2.server import limits
from tests.server.fakes import ScriptedEngine, request, said, scripted_app

JSON = {"content-type": "application/json"}


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
