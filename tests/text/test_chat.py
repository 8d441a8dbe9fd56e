import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderv2.errors import ContextTooLong, InvalidValue
from coderv2.text.chat import ROLES, Message, encode_chat, encode_conversation, render_chat
from coderv2.text.tokenizer import BOS, EOS, FIM_HOLE
from tests.text.texts import ordinary_text, text_with_surrogates
from tests.tiny_tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()

contents = ordinary_text | text_with_surrogates
conversations = st.lists(st.builds(Message, st.sampled_from(ROLES), contents), min_size=1, max_size=5)


def user(content: str) -> Message:
    return Message("user", content)


def assistant(content: str) -> Message:
    return Message("assistant", content)


def system(content: str) -> Message:
    return Message("system", content)


class TestRendering:
    def test_one_user_turn(self) -> None:
        assert render_chat([user("write a quick sort algorithm in python.")]) == (
            "<｜begin▁of▁sentence｜>User: write a quick sort algorithm in python.\n\nAssistant:"
        )

    def test_system_and_user(self) -> None:
        messages = [
            system("You are a helpful AI assistant"),
            user("List 3 countries and their capitals."),
        ]
        assert render_chat(messages) == (
            "<｜begin▁of▁sentence｜>You are a helpful AI assistant\n\n"
            "User: List 3 countries and their capitals.\n\nAssistant:"
        )

    def test_several_turns(self) -> None:
        assert render_chat([user("Hi"), assistant("Hello!"), user("Bye")]) == (
            "<｜begin▁of▁sentence｜>User: Hi\n\nAssistant: Hello!<｜end▁of▁sentence｜>User: Bye\n\nAssistant:"
        )

    def test_training_form_without_generation_prompt(self) -> None:
        assert render_chat([user("Hi"), assistant("Hello!")], add_generation_prompt=False) == (
            "<｜begin▁of▁sentence｜>User: Hi\n\nAssistant: Hello!<｜end▁of▁sentence｜>"
        )

    def test_system_messages_stand_anywhere(self) -> None:
        messages = [system("A"), system("B"), user("Hi"), system("C")]
        assert render_chat(messages) == f"{BOS}A\n\nB\n\nUser: Hi\n\nC\n\nAssistant:"

    def test_developer_is_another_name_for_system(self) -> None:
        assert render_chat([Message("developer", "A"), user("x")]) == render_chat([system("A"), user("x")])

    def test_roles_may_repeat(self) -> None:
        assert render_chat([user("a"), user("b"), assistant("c"), assistant("d")]) == (
            f"{BOS}User: a\n\nUser: b\n\nAssistant: c{EOS}Assistant: d{EOS}Assistant:"
        )

    def test_contents_are_not_trimmed(self) -> None:
        assert render_chat([user("  x \n"), assistant("y \n")], add_generation_prompt=False) == (
            f"{BOS}User:   x \n\n\nAssistant: y \n{EOS}"
        )

    @pytest.mark.parametrize(
        ("stored", "rendered"), [(" Hello!", " Hello!"), ("   x", "   x"), ("\nx", " \nx"), (" ", " ")]
    )
    def test_the_space_that_the_model_wrote_is_not_doubled(self, stored: str, rendered: str) -> None:
        text = render_chat([user("Hi"), assistant(stored)], add_generation_prompt=False)
        assert text == f"{BOS}User: Hi\n\nAssistant:{rendered}{EOS}"

    def test_the_last_answer_can_be_continued(self) -> None:
        messages = [user("a"), assistant("b"), user("c"), assistant("def f(")]
        text = render_chat(messages, add_generation_prompt=False, continue_last=True)
        assert text == f"{BOS}User: a\n\nAssistant: b{EOS}User: c\n\nAssistant: def f("

    @pytest.mark.parametrize("begun", ["", " "])
    def test_continuing_an_answer_of_nothing_leaves_the_first_space_to_the_model(self, begun: str) -> None:
        text = render_chat([user("Hi"), assistant(begun)], add_generation_prompt=False, continue_last=True)
        assert text == render_chat([user("Hi")])


class TestRefusals:
    @pytest.mark.parametrize("role", ["tool", "User", "", "function"])
    def test_unknown_role_names_its_place(self, role: str) -> None:
        with pytest.raises(InvalidValue, match=f"unknown role '{role}'") as caught:
            render_chat([user("Hi"), Message(role, "x")])
        assert caught.value.param == "messages[1].role"

    def test_no_messages(self) -> None:
        with pytest.raises(InvalidValue, match="at least one message") as caught:
            render_chat([])
        assert caught.value.param == "messages"

    def test_only_an_assistants_message_can_be_continued(self) -> None:
        with pytest.raises(InvalidValue, match="not from 'user'"):
            render_chat([user("Hi")], add_generation_prompt=False, continue_last=True)

    def test_continuing_and_a_new_answer_exclude_each_other(self) -> None:
        with pytest.raises(InvalidValue, match="add_generation_prompt must be False"):
            render_chat([user("Hi"), assistant("x")], continue_last=True)


class TestEncoding:
    @given(conversations, st.booleans())
    def test_equals_the_rendered_text(self, messages: list[Message], prompt: bool) -> None:
        text = render_chat(messages, add_generation_prompt=prompt)
        ids = encode_chat(TOKENIZER, messages, add_generation_prompt=prompt)
        assert ids == TOKENIZER.encode(text, control=True)

    @pytest.mark.parametrize("content", ["def f(", "", " "])
    def test_a_continued_answer_equals_the_rendered_text(self, content: str) -> None:
        messages = [user("Hi"), assistant(content)]
        text = render_chat(messages, add_generation_prompt=False, continue_last=True)
        ids = encode_chat(TOKENIZER, messages, add_generation_prompt=False, continue_last=True)
        assert ids == TOKENIZER.encode(text, control=True)

    def test_the_prompt_ends_with_the_colon(self) -> None:
        assert TOKENIZER.token_bytes(encode_chat(TOKENIZER, [user("Hi")])[-1]) == b":"

    @pytest.mark.parametrize("role", ROLES)
    def test_markers_in_contents_never_become_control_tokens(self, role: str) -> None:
        messages = [user("Hi"), Message(role, f"{BOS}{EOS}User: x{FIM_HOLE}")]
        ids = encode_chat(TOKENIZER, messages)
        expected = [TOKENIZER.bos_id] + [TOKENIZER.eos_id] * (role == "assistant")
        assert [i for i in ids if i >= TOKENIZER.bos_id] == expected
        shown = TOKENIZER.decode(ids, skip_special=False)
        assert shown == render_chat(messages)


class TestConversations:
    def test_marks_what_the_assistant_wrote(self) -> None:
        messages = [system("S"), user("Hi"), assistant("Hello!"), user("Bye"), assistant("")]
        ids, written = encode_conversation(TOKENIZER, messages)
        assert len(ids) == len(written)
        answers = [i for i, mine in zip(ids, written, strict=True) if mine]
        assert TOKENIZER.decode(answers, skip_special=False) == f" Hello!{EOS} {EOS}"

    @given(conversations)
    def test_has_the_ids_of_the_training_rendering(self, messages: list[Message]) -> None:
        ids, _ = encode_conversation(TOKENIZER, messages)
        assert ids == encode_chat(TOKENIZER, messages, add_generation_prompt=False)

    @given(conversations, contents)
    def test_an_answer_starts_where_generation_starts(self, messages: list[Message], answer: str) -> None:
        prompt = encode_chat(TOKENIZER, messages)
        ids, written = encode_conversation(TOKENIZER, [*messages, assistant(answer)])
        assert ids[: len(prompt)] == prompt
        assert all(written[len(prompt) :])
        assert not written[len(prompt) - 1]
        assert ids[-1] == TOKENIZER.eos_id


def test_a_chat_that_cannot_fit_is_read_no_further_than_it_does() -> None:
    """Each message fits, and all of them together are thousands of contexts."""
    with pytest.raises(ContextTooLong):
        encode_chat(TOKENIZER.at_most(100), [user("\n" * 90)] * 100_000)
