"""Routes, and the whole way from a socket through a real engine and back."""

import json
from dataclasses import replace
from http.client import HTTPConnection
from typing import Any

import httpx
import openai
import pytest

from coderv2.engine.engine import Engine
from coderv2.engine.request import SamplingParams
from coderv2.engine.worker import Worker
from coderv2.server.app import simple_app
from tests.engine.fakes import FakeModel, fake_engine
from tests.server.conftest import Served
from tests.server.fakes import ScriptedEngine, post, request, said, scripted_app
from tests.server.running import eventually, running

PROMPT = "def quick_sort(values):"
CHAT: Any = [{"role": "user", "content": "Hello"}]


def test_every_route_answers_with_and_without_v1() -> None:
    app = scripted_app(ScriptedEngine(*[said("a")] * 4))
    for root in ("", "/v1"):
        assert post(app, f"{root}/completions", prompt="a").status_code == 200
        assert post(app, f"{root}/chat/completions", messages=CHAT).status_code == 200
        assert request(app, "GET", f"{root}/models?beta=true").json()["data"][0]["id"] == "tiny"
        assert request(app, "GET", f"{root}/models/TINY").json()["id"] == "tiny"
        assert request(app, "GET", f"{root}/health").status_code == 200


def test_unknown_models_are_404() -> None:
    app = scripted_app(ScriptedEngine())
    for response in (
        post(app, "/v1/completions", prompt="a", model="gpt-4"),
        request(app, "GET", "/v1/models/gpt-4"),
    ):
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


def test_the_openapi_page_names_the_ranges() -> None:
    schema = request(scripted_app(ScriptedEngine()), "GET", "/openapi.json").json()
    assert {"/completions", "/chat/completions", "/messages", "/api/generate", "/ready"} <= schema[
        "paths"
    ].keys()
    assert {server["url"] for server in schema["servers"]} >= {"/", "/v1", "/beta"}
    fields = schema["components"]["schemas"]["CompletionRequest"]["properties"]
    assert (fields["n"]["minimum"], fields["n"]["maximum"]) == (1, 128)


def test_completion_equals_the_offline_one_whole_and_streamed(served: Served) -> None:
    (expected,) = served.offline.generate(
        PROMPT, SamplingParams(temperature=0, max_tokens=24), use_tqdm=False
    )
    with served.client() as client:
        whole = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=24, temperature=0)
        chunks = list(
            client.completions.create(model="tiny", prompt=PROMPT, max_tokens=24, temperature=0, stream=True)
        )
    assert whole.choices[0].text == expected.outputs[0].text
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == len(expected.prompt_token_ids)
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected.outputs[0].text
    assert chunks[-1].choices[0].finish_reason == expected.outputs[0].finish_reason


def test_infill_equals_the_offline_one(served: Served) -> None:
    (expected,) = served.offline.infill(
        "def f(", "):\n", SamplingParams(temperature=0, max_tokens=9), use_tqdm=False
    )
    with served.client() as client:
        answer = client.completions.create(
            model="deepseek-coder", prompt="def f(", suffix="):\n", max_tokens=9, temperature=0
        )
    assert answer.choices[0].text == expected.outputs[0].text


def test_chat_equals_the_offline_one_whole_and_streamed(served: Served) -> None:
    (expected,) = served.offline.chat(CHAT, SamplingParams(temperature=0, max_tokens=12), use_tqdm=False)
    wanted = expected.outputs[0].text.removeprefix(" ")
    with served.client() as client:
        whole = client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=12, temperature=0)
        chunks = list(
            client.chat.completions.create(
                model="tiny",
                messages=CHAT,
                max_tokens=12,
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    assert whole.choices[0].message.content == wanted
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == wanted
    assert chunks[-1].usage == whole.usage


def test_log_probabilities_parse_and_add_up(served: Served) -> None:
    with served.client() as client:
        answer = client.chat.completions.create(
            model="tiny", messages=CHAT, max_tokens=5, temperature=0, logprobs=True, top_logprobs=3
        )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    for token in logprobs.content:
        assert len(token.top_logprobs) == 3
        assert token.logprob == token.top_logprobs[0].logprob


def test_equal_seeds_give_equal_answers(served: Served) -> None:
    def answers(seed: int) -> list[str]:
        with served.client() as client:
            reply = client.completions.create(model="tiny", prompt=["a", "b"], n=2, seed=seed, max_tokens=12)
        assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
        return [choice.text for choice in reply.choices]

    assert answers(1) == answers(1) != answers(2)


def test_the_client_fills_in_every_part_of_an_error(served: Served) -> None:
    with served.client() as client, pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt=[1] * 300, max_tokens=5)
    error = caught.value
    assert (error.code, error.type) == ("context_length_exceeded", "invalid_request_error")
    assert "This model's maximum context length is 256 tokens" in error.message
    assert error.request_id is not None
    assert error.request_id.startswith("req_")


def test_the_client_lists_the_model(served: Served) -> None:
    with served.client() as client:
        (model,) = client.models.list().data
        assert client.models.retrieve("deepseek-coder-v2").id == model.id == "tiny"


def _busy_engine() -> Engine:
    """One that answers for minutes when nobody stops it."""
    return fake_engine(FakeModel(context=50_000), cache_tokens=400_000)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_a_client_that_goes_away_leaves_nothing_running(path: str, stream: bool) -> None:
    engine = _busy_engine()
    worker = Worker(engine)
    worker.start()
    body = {"prompt": ["a", "b"]} if path == "completions" else {"messages": CHAT}
    options = {"max_tokens": 40_000, "temperature": 0, "n": 2, "stream": stream}
    with running(simple_app(worker, engine.tokenizer, "tiny")) as url:
        _leave_early(url, f"/v1/{path}", body | options, worker)
        eventually(lambda: worker.stats().running == 0)
        assert (worker.stats().waiting, worker.stats().pages_used) == (0, 0)
    worker.stop()
    engine.check()


def _leave_early(url: str, path: str, body: dict[str, Any], worker: Worker) -> None:
    """Waits until the engine works on it, and for the first bytes of a stream, and hangs up."""
    connection = HTTPConnection(url.removeprefix("http://"))
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    eventually(lambda: worker.stats().running > 0)
    if body["stream"]:
        assert connection.getresponse().read(10) == b'data: {"id'
    connection.close()


def test_ten_hang_ups_in_a_row_leave_nothing_running() -> None:
    engine = _busy_engine()
    worker = Worker(engine)
    worker.start()
    body = {"prompt": "a", "max_tokens": 40_000, "temperature": 0, "stream": True}
    with running(simple_app(worker, engine.tokenizer, "tiny")) as url:
        for size in range(10):
            with httpx.stream("POST", f"{url}/v1/completions", json=body) as response:
                next(response.iter_bytes(1 + 60 * size))
        eventually(lambda: worker.stats() == replace(worker.stats(), running=0, waiting=0, pages_used=0))
    worker.stop()
    engine.check()


def test_streams_end_with_an_error_event_when_the_engine_stops() -> None:
    engine = _busy_engine()
    worker = Worker(engine)
    worker.start()
    body = {"prompt": "a", "max_tokens": 40_000, "temperature": 0, "stream": True}
    with running(simple_app(worker, engine.tokenizer, "tiny")) as url:
        with httpx.stream("POST", f"{url}/v1/completions", json=body) as response:
            lines = (line for line in response.iter_lines() if line)
            next(lines)
            worker.stop()
            *_, last = lines
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "draining"
        refused = httpx.post(f"{url}/v1/completions", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
