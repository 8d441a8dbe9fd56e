"""Idempotency-Key: the same request again is the same reply again."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from coderv2.engine.worker import Worker
from coderv2.errors import ServiceError
from coderv2.server import repeats
from coderv2.server.app import simple_app
from coderv2.server.repeats import Repeats
from tests.engine.fakes import FakeModel, fake_engine
from tests.server.fakes import ScriptedEngine, key, keyed_app, said, scripted_app
from tests.server.running import running

HI = {"messages": [{"role": "user", "content": "Hi"}]}


def _send(
    app: FastAPI, body: dict[str, Any], name: str = "k", path: str = "/v1/chat/completions", **headers: str
) -> Any:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            told = {"idempotency-key": name, "content-type": "application/json"}
            told |= {header.replace("_", "-"): value for header, value in headers.items()}
            return await client.post(path, content=json.dumps(body), headers=told)

    return asyncio.run(send())


@pytest.mark.parametrize("stream", [False, True])
def test_the_same_request_again_is_the_same_answer_and_costs_nothing(stream: bool) -> None:
    engine = ScriptedEngine(said("a", "b"))
    app = scripted_app(engine)
    first, second = (_send(app, HI | {"stream": stream}) for _ in range(2))
    assert first.status_code == second.status_code == 200
    assert first.content == second.content
    assert first.headers["content-type"] == second.headers["content-type"]
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert len(engine.prompts) == 1


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/chat/completions", HI | {"max_tokens": 1}), ("/v1/completions", {"prompt": "a"})]
)
def test_another_request_under_the_same_key_is_a_conflict(path: str, body: dict[str, Any]) -> None:
    app = scripted_app(ScriptedEngine(said("a")))
    _send(app, HI)
    refused = _send(app, body, path=path)
    assert refused.status_code == 409
    assert (refused.json()["error"]["type"], refused.json()["error"]["code"]) == (
        "conflict_error",
        "idempotency_conflict",
    )
    assert refused.headers["x-should-retry"] == "false"


def test_each_key_of_the_server_has_names_of_its_own() -> None:
    engine = ScriptedEngine(said("a"), said("b"))
    app = keyed_app(engine, key("al"), key("bo"))
    answers = [_send(app, HI, x_api_key=f"secret-{name}").json() for name in ("al", "bo")]
    assert [answer["choices"][0]["message"]["content"] for answer in answers] == ["a", "b"]


def test_what_failed_or_was_refused_is_tried_again() -> None:
    engine = ScriptedEngine(
        [ServiceError("broken")], [*said("a", "b")[:1], ServiceError("broken")], said("c")
    )
    app = scripted_app(engine)
    assert _send(app, HI | {"stream": True}).status_code == 500
    assert '"error"' in _send(app, HI | {"stream": True}).text.splitlines()[-2]
    assert "[DONE]" in _send(app, HI | {"stream": True}).text
    assert _send(app, {"messages": []}, name="other").status_code == 400
    assert len(engine.prompts) == 3


@pytest.mark.parametrize("name", ["", "x" * 256])
def test_a_key_of_a_strange_length_is_named(name: str) -> None:
    refused = _send(scripted_app(ScriptedEngine()), HI, name=name)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "idempotency-key")


def test_old_replies_go_after_a_day_and_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    engine = ScriptedEngine(*[said("x")] * 20)
    app = scripted_app(engine)
    app.state.door.repeats = Repeats(lambda: now[0])
    _send(app, HI)
    now[0] = repeats.KEPT_SECONDS + 1
    _send(app, HI)
    assert len(engine.prompts) == 2
    monkeypatch.setattr(repeats, "KEPT_BYTES", 8000)
    for number in range(10):
        _send(app, HI, name=str(number))
        assert app.state.door.repeats._bytes <= 8000
    _send(app, HI, name="9")
    assert len(engine.prompts) == 12
    _send(app, HI, name="0")
    assert len(engine.prompts) == 13


def test_a_reply_that_is_too_large_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "KEPT_BYTES", 2000)
    engine = ScriptedEngine(said("x" * 1000), said("y"))
    app = scripted_app(engine)
    _send(app, HI)
    assert _send(app, HI).json()["choices"][0]["message"]["content"] == "y"


def test_two_at_once_share_one_answer_and_one_that_leaves_makes_way() -> None:
    engine = fake_engine(FakeModel(context=5000), cache_tokens=20_000)
    worker = Worker(engine)
    worker.start()
    body = {"prompt": "a", "max_tokens": 300, "temperature": 0}
    headers = {"idempotency-key": "k"}

    async def ask(url: str) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=url, timeout=60, headers=headers) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.post("/v1/completions", json=body | {"max_tokens": 4900}, timeout=0.2)
            while worker.stats().running:
                await asyncio.sleep(0.01)
            return await asyncio.gather(*(client.post("/v1/completions", json=body) for _ in range(3)))

    with running(simple_app(worker, engine.tokenizer, "tiny")) as url:
        replies = asyncio.run(ask(url))
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.content for reply in replies}) == 1
    assert sorted("idempotent-replayed" in reply.headers for reply in replies) == [False, True, True]
    worker.stop()
