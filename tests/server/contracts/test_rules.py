"""The rules that hold for all clients: names (R), templates (T), streams (E), leaving and time (X), headers."""

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI
from starlette.requests import Request

from coderv2.engine.worker import Worker
from coderv2.errors import QueueFull, ServiceError
from coderv2.server import stream
from coderv2.server.app import create_app, simple_app
from coderv2.server.backend import Backend
from coderv2.server.caller import Accounts, Caller
from coderv2.server.door import Door
from coderv2.server.errors import Refused
from coderv2.server.models import Models
from coderv2.text.fim import encode_fim
from tests.engine.fakes import FakeModel, fake_engine
from tests.server.conftest import Served
from tests.server.fakes import ScriptedEngine, events_of, key, keyed_app, post, request, said, scripted_app
from tests.server.running import eventually, running
from tests.tiny_tokenizer import tiny_tokenizer

HI: Any = [{"role": "user", "content": "Hi"}]
STREAMS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "a", "stream": True}),
    ("/v1/chat/completions", {"messages": HI, "stream": True}),
    ("/v1/fim/completions", {"prompt": "a", "suffix": "b", "stream": True}),
    ("/v1/responses", {"input": "Hi", "stream": True}),
    ("/v1/messages", {"messages": HI, "max_tokens": 9, "stream": True}),
    ("/infill", {"input_prefix": "a", "input_suffix": "b", "stream": True}),
    ("/completion", {"prompt": "a", "stream": True}),
    ("/api/generate", {"prompt": "a"}),
    ("/api/chat", {"messages": HI}),
]
ALL = [*STREAMS, *((path, {**body, "stream": False}) for path, body in STREAMS)]


@contextmanager
def _serving(worker: Worker, app: FastAPI | None = None) -> Iterator[str]:
    worker.start()
    with running(app or simple_app(worker, tiny_tokenizer(), "tiny")) as url:
        yield url
    worker.stop()


def _idle(worker: Worker) -> bool:
    stats = worker.stats()
    return (stats.running, stats.waiting, stats.pages_used) == (0, 0, 0)


@pytest.mark.parametrize(
    "model", ["deepseek-coder", "DeepSeek-Coder-V2", "deepseek-coder-v2:16b-lite", "", "TINY", None]
)
def test_r2_names_that_clients_are_configured_with(model: str | None) -> None:
    app = scripted_app(ScriptedEngine(said("a")))
    assert post(app, "/v1/completions", prompt="a", model=model).status_code == 200


@pytest.mark.parametrize(("path", "body"), ALL)
def test_r3_a_field_that_nobody_knows_is_ignored_everywhere(path: str, body: dict[str, Any]) -> None:
    app = scripted_app(ScriptedEngine(said("a")))
    assert post(app, path, **body, something_new={"a": [1]}, user=None).status_code == 200


def test_r7_only_a_stream_is_told_that_it_waits_and_by_a_comment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "KEEP_ALIVE_SECONDS", 0.05)
    worker = Worker(fake_engine(FakeModel(context=50_000), cache_tokens=100_000, max_running=1))
    with _serving(worker) as url:
        long = {"prompt": "a", "max_tokens": 40_000, "temperature": 0, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=long) as first:
            chunks = first.iter_bytes(10)  # kept: an iterator that goes takes its connection along
            next(chunks)
            waiting = {"prompt": "b", "max_tokens": 1}
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{url}/v1/completions", json=waiting, timeout=0.5)
            with httpx.stream("POST", f"{url}/v1/completions", json=waiting | {"stream": True}) as second:
                assert next(second.iter_lines()) == ": keep-alive"
        eventually(lambda: _idle(worker))


@pytest.mark.parametrize(("path", "body"), ALL)
def test_r7_what_waits_too_long_is_a_503_that_says_when_to_come_again(
    path: str, body: dict[str, Any]
) -> None:
    reply = post(scripted_app(ScriptedEngine([QueueFull("it waited too long")])), path, **body)
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    assert "it waited too long" in reply.text


def test_r7_the_queue_is_bounded_in_time_and_counted() -> None:
    engine = fake_engine(FakeModel(context=50_000), clock=time.monotonic, cache_tokens=100_000, max_running=1)
    worker = Worker(engine, patience=0.3)
    with _serving(worker) as url:
        long = {"prompt": "a", "max_tokens": 40_000, "temperature": 0, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=long) as first:
            chunks = first.iter_bytes(10)  # kept: an iterator that goes takes its connection along
            next(chunks)
            for wanted in (False, True):
                late = httpx.post(f"{url}/v1/completions", json={"prompt": "b", "stream": wanted}, timeout=60)
                assert (late.status_code, late.json()["error"]["code"]) == (503, "overloaded")
        assert 'coderv2_engine_gave_up{engine="chat"} 2.0' in httpx.get(f"{url}/metrics").text
        eventually(lambda: _idle(worker))
    engine.check()


@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [
        ("", ""),
        ("", "b"),
        ("a", ""),
        ("a", "\n"),
        ("a\r\n", "\r\nb"),
        ("\ud800", "\udfff"),
        ("x" * 40, "y" * 40),
    ],
)
def test_t6_every_hole_is_legal(prefix: str, suffix: str) -> None:
    engine = ScriptedEngine(*[said("y")] * 3, max_model_len=4096)
    app = scripted_app(engine)
    post(app, "/v1/completions", prompt=prefix, suffix=suffix)
    post(app, "/v1/fim/completions", prompt=prefix, suffix=suffix)
    post(app, "/infill", input_prefix=prefix, input_suffix=suffix)
    assert engine.prompts == [encode_fim(tiny_tokenizer(), prefix, suffix)] * 3


@pytest.mark.parametrize(("path", "body"), STREAMS)
def test_e6_a_failure_after_the_first_byte_is_told_once_and_ends_it(path: str, body: dict[str, Any]) -> None:
    script = [*said("a", "b")[:1], ServiceError("secret")]
    reply = post(scripted_app(ScriptedEngine(script)), path, **body)
    assert reply.status_code == 200
    assert "error" in reply.text.rstrip().splitlines()[-1]
    assert "secret" not in reply.text
    assert "[DONE]" not in reply.text


@pytest.mark.parametrize(("path", "body"), STREAMS[:5])
def test_e6_a_failure_after_a_keep_alive_and_before_the_first_token_is_told_once(
    path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Waiting(ScriptedEngine):
        async def _play(self, script: Any) -> Any:
            await asyncio.sleep(0.1)
            async for delta in super()._play(script):
                yield delta

    monkeypatch.setattr(stream, "KEEP_ALIVE_SECONDS", 0.02)
    reply = post(scripted_app(Waiting([QueueFull("it waited too long")])), path, **body)
    assert reply.status_code == 200
    assert ": keep-alive\n\n" in reply.text
    assert "it waited too long" in reply.text.rstrip().splitlines()[-1]
    assert reply.text.endswith("\n\n")
    assert "[DONE]" not in reply.text


@pytest.mark.parametrize("read", [1, 500, 3000])
def test_x1_who_leaves_is_charged_for_the_prompt_and_what_was_made(read: int) -> None:
    worker = Worker(fake_engine(FakeModel(context=20_000), cache_tokens=100_000))
    app = keyed_app(ScriptedEngine(), key("al", tokens_per_minute=10**9))
    app.state.door.models = Models.of("tiny", Backend(worker, tiny_tokenizer()))
    body = json.dumps({"prompt": "def f(x):", "max_tokens": 15_000, "temperature": 0, "stream": True})
    head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\napi-key: secret-al\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    account = lambda: next(iter(app.state.door.accounts._accounts.values()))  # noqa: E731
    with _serving(worker, app) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall((head + body).encode())
            seen = b""
            while len(seen) < read:
                seen += connection.recv(read - len(seen))
        eventually(lambda: _idle(worker) and account().running == 0)
        prompt = len(tiny_tokenizer().encode("def f(x):", bos=True))
        charged = account()._spent - prompt
        assert seen.count(b'"finish_reason":null}') <= charged < 15_000
        time.sleep(0.1)
        assert account()._spent == charged + prompt


def test_x2_a_deadline_ends_the_answer_with_what_there_is() -> None:
    worker = Worker(fake_engine(FakeModel(context=50_000), clock=time.monotonic, cache_tokens=100_000))
    with _serving(worker) as url:
        body = {"prompt": "a", "max_tokens": 40_000, "temperature": 0}
        reply = httpx.post(f"{url}/v1/completions", json=body, headers={"x-deadline-ms": "300"}, timeout=60)
        choice = reply.json()["choices"][0]
        assert choice["finish_reason"] == "length"
        assert 0 < reply.json()["usage"]["completion_tokens"] < 40_000
        eventually(lambda: _idle(worker))


def test_x4_the_same_prompt_three_times_at_once_is_computed_once() -> None:
    gate = threading.Event()
    peak = FakeModel()._logits

    def held(tokens: list[int]) -> Any:
        assert gate.wait(60)
        return peak(tokens)

    worker = Worker(fake_engine(FakeModel(held)))
    hole = {"prompt": "x = 1\n" * 6, "suffix": "y", "max_tokens": 4, "temperature": 0}
    prompt = len(encode_fim(tiny_tokenizer(), hole["prompt"], "y"))  # type: ignore[arg-type]
    with _serving(worker) as url, ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(httpx.post, f"{url}/beta/completions", json=hole, timeout=60) for _ in range(3)]
        eventually(lambda: worker.stats().running + worker.stats().waiting + len(worker._orders) >= 3)
        gate.set()
        replies = [each.result().json() for each in asked]
        assert len({reply["choices"][0]["text"] for reply in replies}) == 1
        assert sorted(reply["usage"]["prompt_cache_hit_tokens"] for reply in replies)[0] == 0
        assert worker.stats().cached_tokens >= 2 * (prompt - 4)


def test_every_reply_has_its_headers_streams_and_limits_too() -> None:
    app = keyed_app(
        ScriptedEngine(*[said("a")] * 20), key("al", requests_per_minute=50, tokens_per_minute=10**6)
    )
    headers = {"api-key": "secret-al", "content-type": "application/json"}
    replies = [request(app, "POST", path, content=json.dumps(body), headers=headers) for path, body in ALL]
    replies += [request(app, "GET", "/v1/nothing", headers=headers)]
    replies += [request(app, "POST", "/v1/completions", content="{", headers=headers)]
    for reply in replies:
        assert re.fullmatch(r"req_[0-9a-f]{32}", reply.headers["x-request-id"])
        assert reply.headers["openai-processing-ms"].isdigit()
    for reply in [*replies[: len(ALL)], replies[-1]]:
        for name in ("requests", "tokens"):
            assert reply.headers[f"x-ratelimit-limit-{name}"].isdigit()
            assert reply.headers[f"x-ratelimit-remaining-{name}"].isdigit()
            assert re.fullmatch(r"(\d+m)?[\d.]+m?s", reply.headers[f"x-ratelimit-reset-{name}"])
    assert replies[0].headers["content-type"] == "text/event-stream; charset=utf-8"


class _Busy(Accounts):
    """Everybody comes too often."""

    asked = 0

    def recognise(self, request: Request) -> Caller:
        self.asked += 1
        headers = {"retry-after": "1", "retry-after-ms": "50"}
        raise Refused(429, "rate_limit_exceeded", "slowly", type="rate_limit_error", headers=headers)


def test_c1_openai_python_tries_twice_more_when_told_to_wait() -> None:
    busy = _Busy()
    models = Models.of("tiny", Backend(ScriptedEngine(), tiny_tokenizer()))
    with (
        running(create_app(Door(models, busy))) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="x") as client,
    ):
        began = time.monotonic()
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="tiny", messages=HI)
        assert time.monotonic() - began < 5
    assert busy.asked == 3
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "rate_limit_error")


def test_c1_openai_python_reads_responses_and_the_errors_of_streams(served: Served) -> None:
    with served.client() as client:
        whole = client.responses.create(model="tiny", input="Hello", max_output_tokens=9, temperature=0)
        events = list(
            client.responses.create(
                model="tiny", input="Hello", max_output_tokens=9, temperature=0, stream=True, store=False
            )
        )
        assert events[-1].type == "response.incomplete"
        assert events[-1].response.output_text == whole.output_text
        assert client.responses.retrieve(whole.id).output_text == whole.output_text
        client.responses.delete(whole.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(whole.id)
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model="tiny", prompt=[1] * 300, max_tokens=5, stream=True)
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.request_id is not None


def test_c1_openai_python_raises_what_fails_midway() -> None:
    app = scripted_app(ScriptedEngine([*said("a", "b")[:1], ServiceError("secret")]))
    with running(app) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        chunks = client.completions.create(model="tiny", prompt="a", stream=True)
        with pytest.raises(openai.APIError, match="internal error"):
            list(chunks)


def test_e3_no_event_lacks_a_choice_unless_usage_was_asked_for() -> None:
    for path, body in STREAMS[:3]:
        *chunks, done = events_of(post(scripted_app(ScriptedEngine(said("a"))), path, **body))
        assert done == "[DONE]"
        assert all(chunk["choices"] for chunk in chunks)
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
