"""What may be called, what must be, and the prompt that comes of it."""

import pytest

from coderv2.errors import InvalidValue
from coderv2.server.conversation import Conversation, assistant, result
from coderv2.text.chat import Message, encode_chat
from coderv2.text.tools import Tool, introduce, written_call, written_result
from tests.tiny_tokenizer import tiny_tokenizer

ADD, SING = Tool("add", "Adds.", {"type": "object"}), Tool("sing", "", {"type": "object"}, True)
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
    assert Conversation(HI, [ADD]).constraint() == {}
    assert Conversation(HI).constraint() == {}
    free = Conversation(HI, [ADD, SING]).constraint()["structured_outputs"].grammar
    bound = Conversation(HI, [ADD], "required").constraint()["structured_outputs"].grammar
    once = Conversation(HI, [ADD], "required", several=False).constraint()["structured_outputs"].grammar
    assert len({free, bound, once}) == 3


def test_calls_and_results_are_turns_of_text() -> None:
    assert assistant("So:", [("add", "{}"), ("sing", "{}")]) == Message(
        "assistant", "\n".join(["So:", written_call("add", "{}"), written_call("sing", "{}")])
    )
    assert assistant("", []) == Message("assistant", "")
    assert result("2") == Message("user", written_result("2"))
