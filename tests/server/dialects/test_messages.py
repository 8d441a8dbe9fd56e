"""Anthropic's messages: who spoke, why it ended, what it took."""

from typing import Any

import pytest

from coderv2.server.dialects.messages import conversation
from coderv2.server.schema.messages import CountRequest
from coderv2.text.chat import Message
from tests.server.fakes import ScriptedEngine, named_events_of, post, said, scripted_app

HI = {"role": "user", "content": "Hi"}


def _talk(**body: Any) -> Any:
    return conversation(CountRequest.model_validate({"messages": [HI], **body}))


def test_system_text_comes_first_and_thoughts_are_left_out() -> None:
    thoughts = [{"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "text", "text": "Hello"}]
    talk = _talk(
        messages=[HI, {"role": "assistant", "content": thoughts}, HI], system=[{"type": "text", "text": "S"}]
    )
    assert talk.messages == [
        Message("system", "S"),
        Message("user", "Hi"),
        Message("assistant", "Hello"),
        Message("user", "Hi"),
    ]


@pytest.mark.parametrize(
    ("last", "goes_on"),
    [
        ({"role": "assistant", "content": "It is"}, True),
        ({"role": "assistant", "content": "  "}, False),
        (
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
            False,
        ),
        (HI, False),
    ],
)
def test_only_words_of_the_assistants_are_gone_on_with(last: Any, goes_on: bool) -> None:
    assert _talk(messages=[HI, last]).goes_on == goes_on


@pytest.mark.parametrize(
    ("sent", "choice", "several"),
    [
        ({"type": "auto"}, "auto", True),
        ({"type": "any"}, "required", True),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", False),
        ({"type": "tool", "name": "f"}, "named", False),
        ({"type": "none"}, "none", True),
    ],
)
def test_their_choices_are_ours(sent: Any, choice: str, several: bool) -> None:
    talk = _talk(tools=[{"name": "f"}], tool_choice=sent)
    assert (talk.choice, talk.several) == (choice, several)


@pytest.mark.parametrize(("finish", "reason"), [("stop", "end_turn"), ("length", "max_tokens")])
def test_whole_and_streamed_say_the_same(finish: str, reason: str) -> None:
    engine = ScriptedEngine(said(" a", "b", finish=finish), said(" a", "b", finish=finish))
    app = scripted_app(engine)
    body = {"messages": [HI], "max_tokens": 9, "model": "claude-x"}
    whole = post(app, "/v1/messages", **body).json()
    events = named_events_of(post(app, "/v1/messages", **body, stream=True))
    text = "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")
    assert whole["content"] == [{"type": "text", "text": text}]
    assert whole["stop_reason"] == events[-2]["delta"]["stop_reason"] == reason
    assert whole["usage"] == events[-2]["usage"]


def test_an_empty_answer_is_an_empty_text() -> None:
    body = {"messages": [HI], "max_tokens": 9}
    assert post(scripted_app(ScriptedEngine(said(""))), "/v1/messages", **body).json()["content"] == [
        {"type": "text", "text": ""}
    ]
