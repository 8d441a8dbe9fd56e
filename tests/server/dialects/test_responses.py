"""OpenAI's responses: input of every kind, the order of events, calling off."""

import json
from typing import Any

import httpx
import pytest

from coderv2.engine.worker import Worker
from coderv2.server.app import simple_app
from coderv2.text.chat import Message, encode_chat
from tests.engine.fakes import FakeModel, fake_engine
from tests.server.fakes import ScriptedEngine, named_events_of, post, said, scripted_app
from tests.server.running import eventually, running
from tests.tiny_tokenizer import tiny_tokenizer


@pytest.mark.parametrize(
    "sent",
    [
        "Hi",
        [{"role": "user", "content": "Hi"}],
        [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
    ],
)
def test_input_is_a_text_or_items(sent: Any) -> None:
    engine = ScriptedEngine(said("a"))
    post(scripted_app(engine), "/v1/responses", input=sent, instructions="S")
    assert engine.prompts == [encode_chat(tiny_tokenizer(), [Message("system", "S"), Message("user", "Hi")])]


@pytest.mark.parametrize("sent", ["", [], [{"type": "reasoning", "summary": []}]])
def test_nothing_to_answer_is_refused(sent: Any) -> None:
    refused = post(scripted_app(ScriptedEngine()), "/v1/responses", input=sent)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input")


@pytest.mark.parametrize(
    "body", [{"truncation": "auto"}, {"background": True}, {"input": "Hi", "tools": [{"type": "custom"}]}]
)
def test_what_is_not_done_here_is_refused(body: dict[str, Any]) -> None:
    assert post(scripted_app(ScriptedEngine()), "/v1/responses", **{"input": "Hi", **body}).status_code == 400


def test_whole_and_streamed_say_the_same() -> None:
    app = scripted_app(ScriptedEngine(said(" a", "b"), said(" a", "b")))
    whole = post(app, "/v1/responses", input="Hi").json()
    events = named_events_of(post(app, "/v1/responses", input="Hi", stream=True))
    last = events[-1]["response"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert last["output"][0]["content"] == whole["output"][0]["content"]
    assert last["usage"] == whole["usage"]
    assert "".join(event["delta"] for event in events if event["type"].endswith("output_text.delta")) == "ab"


def test_one_that_is_being_written_can_be_called_off() -> None:
    worker = Worker(fake_engine(FakeModel(context=50_000), cache_tokens=100_000))
    worker.start()
    body = {"input": "Hi", "max_output_tokens": 40_000, "temperature": 0, "stream": True}
    with running(simple_app(worker, tiny_tokenizer(), "tiny")) as url:
        with httpx.stream("POST", f"{url}/v1/responses", json=body, timeout=60) as reply:
            data = (json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: "))
            id = next(data)["response"]["id"]
            called_off = httpx.post(f"{url}/v1/responses/{id}/cancel")
            *_, last = data
        assert called_off.json()["status"] == "cancelled"
        assert (last["type"], last["response"]["status"]) == ("response.failed", "cancelled")
        eventually(lambda: (worker.stats().running, worker.stats().pages_used) == (0, 0))
        assert httpx.post(f"{url}/v1/responses/{id}/cancel").status_code == 404
    worker.stop()
