"""What may be called, what must be, and the prompt that comes of it."""

from collections.abc import Sequence
from typing import Any

import pytest

from coderv2.engine.grammar import StructuredOutputsParams
from coderv2.errors import InvalidValue
from coderv2.server.conversation import Conversation, assistant, result
from coderv2.text.chat import Message, encode_chat
from coderv2.text.tools import Tool, calls_or_json, introduce, written_call, written_result
from tests.server.fakes import ScriptedEngine, post, said, scripted_app
from tests.tiny_tokenizer import tiny_tokenizer

ADD, SING = Tool("add", "Adds.", {"type": "object"}), Tool("sing", "", {"type": "object"}, True)
INTEGER = {"type": "integer"}
HI = [Message("user", "Hi")]


def test_each_choice_has_its_functions() -> None:
    both = [ADD, SING]
    assert Conversation(HI, both).callable == both
    assert Conversation(HI, both, "none").callable == ()
    assert Conversation(HI, both, "required").callable == both
    assert Conversation(HI, both, "named", only="sing").callable == [SING]


@pytest.mark.parametrize(
    "talk", [Conversation(HI, (), "required"), Conversation(HI, [ADD], "named", only="sing")]
)
def test_a_choice_that_nothing_meets_is_the_callers_mistake(talk: Conversation) -> None:
    with pytest.raises(InvalidValue) as caught:
        _ = talk.callable
    assert caught.value.param == "tool_choice"


def test_functions_stand_first_unless_none_may_be_called() -> None:
    tokenizer = tiny_tokenizer()
    told = [Message("system", introduce([ADD])), *HI]
    assert Conversation(HI, [ADD]).prompt(tokenizer) == encode_chat(tokenizer, told)
    assert Conversation(HI, [ADD], "none").prompt(tokenizer) == encode_chat(tokenizer, HI)


def test_a_grammar_stands_for_what_is_required_or_strict() -> None:
    assert Conversation(HI, [ADD]).constraint() is None
    assert Conversation(HI).constraint() is None
    talks = [
        Conversation(HI, [ADD, SING]),
        Conversation(HI, [ADD], "required"),
        Conversation(HI, [ADD], "required", several=False),
    ]
    found = [talk.constraint() for talk in talks]
    assert len({constraint and constraint.grammar for constraint in found} - {None}) == 3


@pytest.mark.parametrize("tools", [(), [ADD]])
def test_a_format_holds_alone_where_nothing_may_be_called(tools: Sequence[Tool]) -> None:
    wanted = StructuredOutputsParams(regex="a+")
    assert Conversation(HI, tools, "none").constraint(wanted) == wanted


@pytest.mark.parametrize(
    ("wanted", "schema"), [({"json_object": True}, {"type": "object"}), ({"json": INTEGER}, INTEGER)]
)
def test_beside_tools_that_may_be_called_the_format_is_one_of_two_ways_to_answer(
    wanted: dict[str, Any], schema: dict[str, Any]
) -> None:
    found = Conversation(HI, [ADD, SING]).constraint(StructuredOutputsParams(**wanted))
    assert found == StructuredOutputsParams(grammar=calls_or_json([ADD, SING], schema, several=True))


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [("required", {"json": INTEGER}), ("auto", {"regex": "a"}), ("auto", {"json": "{}"})],
)
def test_a_format_that_does_not_go_with_tools_is_refused(choice: str, wanted: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue) as caught:
        Conversation(HI, [ADD], choice).constraint(StructuredOutputsParams(**wanted))
    assert caught.value.param == "tools"


def test_calls_and_results_are_turns_of_text() -> None:
    assert assistant("So:", [("add", "{}"), ("sing", "{}")]) == Message(
        "assistant", "\n".join(["So:", written_call("add", "{}"), written_call("sing", "{}")])
    )
    assert assistant("", []) == Message("assistant", "")
    assert result("2") == Message("user", written_result("2"))


TOOL = {"name": "add", "parameters": INTEGER}
BOTH: list[tuple[str, dict[str, Any]]] = [
    (
        "/v1/chat/completions",
        {
            "tools": [{"type": "function", "function": TOOL}],
            "response_format": {"type": "json_schema", "json_schema": {"schema": INTEGER}},
        },
    ),
    (
        "/v1/responses",
        {
            "tools": [{"type": "function", **TOOL}],
            "text": {"format": {"type": "json_schema", "name": "n", "schema": INTEGER}},
        },
    ),
    ("/api/chat", {"tools": [{"function": TOOL}], "format": INTEGER, "stream": False}),
]


@pytest.mark.parametrize(("path", "body"), BOTH)
def test_every_family_lets_a_model_call_or_answer_in_a_format(path: str, body: dict[str, Any]) -> None:
    engine = ScriptedEngine(said("a"), max_model_len=4096)
    talk = {"input": "Hi"} if "responses" in path else {"messages": [{"role": "user", "content": "Hi"}]}
    assert post(scripted_app(engine), path, **talk, **body).status_code == 200
    expected = calls_or_json([Tool("add", parameters=INTEGER)], INTEGER, several=True)
    assert engine.params[0].structured_outputs == StructuredOutputsParams(grammar=expected)


@pytest.mark.parametrize(("path", "body"), BOTH[:2])
def test_what_must_call_cannot_match_a_format_too(path: str, body: dict[str, Any]) -> None:
    talk = {"input": "Hi"} if "responses" in path else {"messages": [{"role": "user", "content": "Hi"}]}
    reply = post(scripted_app(ScriptedEngine()), path, tool_choice="required", **talk, **body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "tools")
