"""Functions in the prompt, and the calls that grammars allow."""

import json

import pytest

from coderv2.engine.grammar import Grammars, StructuredOutputsParams
from coderv2.text.tools import Tool, calls_or_json, introduce, required_calls, strict_calls, written_call
from tests.engine.fakes import VOCABULARY
from tests.tiny_tokenizer import tiny_tokenizer

GRAMMARS = Grammars(tiny_tokenizer(), VOCABULARY)
INTEGER = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
ADD = Tool("add", "Adds.", INTEGER, strict=True)
SAY = Tool("say")


def _allows(grammar: str, text: str) -> bool:
    """Whether the whole text may be written and then ended."""
    state = GRAMMARS.compile(StructuredOutputsParams(grammar=grammar))
    tokenizer = tiny_tokenizer()
    for token_id in tokenizer.encode(text):
        allowed = state.allowed()
        if allowed is None or not allowed[token_id]:
            return False
        state.accept(token_id)
    allowed = None if state.finished else state.allowed()
    return state.finished or (allowed is not None and bool(allowed[tokenizer.eos_id]))


def test_the_introduction_holds_each_function_as_a_line_of_json() -> None:
    lines = introduce([ADD, SAY]).splitlines()
    assert json.loads(lines[1]) == {"name": "add", "description": "Adds.", "parameters": INTEGER}
    assert json.loads(lines[2])["parameters"] == {"type": "object"}


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        (written_call("add", '{"a": 1}'), True),
        (" " + written_call("add", '{"a": 1}'), True),
        (written_call("add", '{"a": "x"}'), False),
        (written_call("say", '{"b": [1, "x"]}'), True),
        (written_call("sing", "{}"), False),
        ("text", False),
        ("", False),
    ],
)
def test_a_required_call_is_a_call_and_nothing_else(text: str, allowed: bool) -> None:
    assert _allows(required_calls([ADD, SAY], several=True), text) == allowed


def test_several_calls_only_where_several_are_wanted() -> None:
    two = written_call("add", '{"a": 1}') + "\n" + written_call("say", "{}")
    assert _allows(required_calls([ADD, SAY], several=True), two)
    assert not _allows(required_calls([ADD, SAY], several=False), two)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("any text at all\n", True),
        ("less < more <tool", True),
        ("text\n" + written_call("add", '{"a": 1}'), True),
        (written_call("add", '{"b": 1}'), False),
        (written_call("say", '{"b": 1}'), True),
        ("a <tool_call> b", False),
    ],
)
def test_strict_functions_bind_calls_but_not_text(text: str, allowed: bool) -> None:
    assert _allows(strict_calls([ADD, SAY], several=True), text) == allowed


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ('{"a": 1}', True),
        (' {"a": 1}', True),
        ('{"b": 1}', False),
        ("text", False),
        ("", False),
        (written_call("add", '{"a": 1}'), True),
        (written_call("add", '{"a": "x"}'), False),
        (written_call("say", '{"b": 1}') + "\n" + written_call("add", '{"a": 1}'), True),
        ('{"a": 1}' + written_call("add", '{"a": 1}'), False),
    ],
)
def test_json_of_a_schema_or_calls_and_nothing_else(text: str, allowed: bool) -> None:
    assert _allows(calls_or_json([ADD, SAY], INTEGER, several=True), text) == allowed
