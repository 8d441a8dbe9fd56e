"""An assistant's turn: the template's space, calls, and why it ended."""

from coderv2.server.conversation import Conversation
from coderv2.server.turn import Turn, WholeTurn, whole_turn
from coderv2.text.chat import Message
from coderv2.text.toolcalls import Arguments, CallBegun, Said
from coderv2.text.tools import Tool, written_call

HI = [Message("user", "Hi")]
TOOLS = [Tool("add", "", {})]


def test_the_templates_one_space_is_dropped_only_at_the_start() -> None:
    turn = Turn(Conversation(HI))
    assert turn.push("") == []
    assert turn.push("  a") == [Said(" a")]
    assert turn.push(" b") == [Said(" b")]
    assert Turn(Conversation(HI, goes_on=True)).push(" a") == [Said(" a")]


def test_calls_are_taken_out_where_there_are_functions() -> None:
    text = " So:\n" + written_call("add", '{"a": 1}')
    called = whole_turn(Conversation(HI, TOOLS), text, "stop")
    assert (called.text, called.calls, called.finish_reason) == ("So:", [("add", '{"a": 1}')], "tool_calls")
    assert called.arguments(0) == {"a": 1}
    for talk in (Conversation(HI), Conversation(HI, TOOLS, "none")):
        plain = whole_turn(talk, text, "stop")
        assert (plain.text, plain.calls, plain.finish_reason) == (text[1:], [], "stop")


def test_a_call_that_is_cut_short_keeps_its_reason_and_has_no_object() -> None:
    cut = whole_turn(Conversation(HI, TOOLS), written_call("add", '{"a": 1}')[:-20], "length")
    assert (cut.finish_reason, cut.calls[0][0], cut.arguments(0)) == ("length", "add", {})


def test_pieces_are_put_together_by_their_index() -> None:
    whole = WholeTurn()
    whole.hear(
        [Said("a"), CallBegun(0, "f"), Arguments(0, "[1"), CallBegun(1, "g"), Arguments(0, "]"), Said("b")]
    )
    assert (whole.text, whole.calls) == ("ab", [("f", "[1]"), ("g", "")])
    assert whole.arguments(0) == whole.arguments(1) == {}
