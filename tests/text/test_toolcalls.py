"""Calls read back out of answers."""

import json
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderv2.text.toolcalls import Arguments, CallBegun, Piece, Said, ToolCalls, pieces_of
from coderv2.text.tools import written_call


def _together(pieces: Iterable[Piece]) -> tuple[str, list[tuple[str, str]]]:
    text, calls = "", list[tuple[str, str]]()
    for piece in pieces:
        match piece:
            case Said(said):
                text += said
            case CallBegun(index, name):
                assert index == len(calls)
                calls.append((name, ""))
            case Arguments(index, more):
                assert index == len(calls) - 1
                calls[index] = (calls[index][0], calls[index][1] + more)
    return text, calls


TRICKY = json.dumps({"code": "x = \"</tool_call>}\" + '{['", "n": [{"a": 1}, "\\"]})


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        ("Hello < there", "Hello < there", []),
        (written_call("f", "{}"), "", [("f", "{}")]),
        ("Sure.\n\n" + written_call("f", TRICKY) + "\n", "Sure.", [("f", TRICKY)]),
        (
            written_call("f", "{}") + "\n" + written_call("g", '{"a": 1}'),
            "",
            [("f", "{}"), ("g", '{"a": 1}')],
        ),
        ('<tool_call>{"name":"f","parameters":{"a":1}}</tool_call>', "", [("f", '{"a":1}')]),
        ("<tool_call>no json</tool_call> x", "<tool_call>no json</tool_call> x", []),
        ("<tool_call>\n{", "<tool_call>\n{", []),
        ("a <tool_", "a <tool_", []),
        ('<tool_call>\n{"name": "f", "arguments": {"a": ', "", [("f", '{"a": ')]),
        (written_call("f", "{}") + " and text", " and text", [("f", "{}")]),
        ("a  \n", "a  \n", []),
    ],
)
def test_text_and_calls(text: str, said: str, calls: list[tuple[str, str]]) -> None:
    assert _together(pieces_of(text)) == (said, calls)


ALPHABET = st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        "<",
        "tool",
        " ",
        "\n",
        "x",
        '{"name": "f", "arguments": {',
        '"}',
        "}",
        '"',
        "\\",
    ]
)


@given(st.lists(ALPHABET, max_size=14).map("".join), st.data())
def test_however_it_is_cut_the_pieces_say_the_same(text: str, data: st.DataObject) -> None:
    calls = ToolCalls()
    pieces: list[Piece] = []
    left = text
    while left:
        size = data.draw(st.integers(1, len(left)))
        pieces += calls.push(left[:size])
        left = left[size:]
    assert _together([*pieces, *calls.finish()]) == _together(pieces_of(text))


def test_arguments_come_as_they_are_written() -> None:
    calls = ToolCalls()
    calls.push('<tool_call>\n{"name": "f", "arguments": ')
    assert calls.push('{"a"') == [CallBegun(0, "f"), Arguments(0, '{"a"')]
    assert calls.push(": 1") == [Arguments(0, ": 1")]
    assert calls.push("}}\n</tool") == [Arguments(0, "}")]
    assert calls.push("_call>") == []


def test_text_is_told_as_soon_as_it_cannot_be_a_call() -> None:
    calls = ToolCalls()
    assert calls.push("a <to") == [Said("a")]
    assert calls.push("p>") == [Said(" <top>")]


def test_a_second_call_is_dropped_where_one_is_wanted() -> None:
    two = written_call("f", "{}") + "\n" + written_call("g", "{}") + " text"
    assert _together(pieces_of(two, several=False)) == ("", [("f", "{}")])


@pytest.mark.parametrize(
    "cut",
    ['<tool_call>\n{"name": "g", "argu', "<tool_call>", "<too", '<tool_call>\n{"name": "g", "arguments":'],
)
def test_a_further_call_that_is_cut_off_is_not_told_as_text(cut: str) -> None:
    whole = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    assert _together(pieces_of(f"{whole}\n{cut}")) == _together(pieces_of(whole))
    assert _together(pieces_of(cut)) == _together([Said(cut)])
