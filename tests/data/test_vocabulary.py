import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from coderv2.data.vocabulary import byte_alphabet, save_tokenizer, train_bpe
from coderv2.errors import InvalidValue
from coderv2.text.chat import CHAT_TEMPLATE, Message, encode_chat, render_chat
from coderv2.text.published import CONTROL_TOKENS, pre_tokenizer
from coderv2.text.tokenizer import BOS, EOS, FIM_BEGIN, FIM_END, FIM_HOLE
from tests.tiny_tokenizer import LINES, VOCAB_SIZE, tiny_tokenizer, tiny_tokenizer_folder

SMALLEST = 243 + 18

# Ids that DeepSeek-V2's tokenizer gives; in each of these texts every piece is a single token.
PUBLISHED = {
    "Hello world": [17464, 1843],
    "Hello, world!": [17464, 11, 1843, 0],
    "User: Who are you?\n\nAssistant:": [5726, 25, 8886, 418, 340, 30, 185, 185, 77398, 25],
    "User: hi\n\nAssistant: ": [5726, 25, 2868, 185, 185, 77398, 25, 207],
    "#write a quick sort algorithm": [2, 6451, 245, 3399, 3734, 6712],
    "    return x\n": [300, 972, 1376, 185],
    "\t\tx = 0x1F\n": [184, 43609, 403, 207, 15, 87, 16, 37, 185],
    "def f(x):\n    return x+1\n": [1558, 267, 7, 87, 1780, 185, 300, 972, 1376, 10, 16, 185],
    "for (int i=0;i<10;i++) {": [1467, 334, 572, 460, 28, 15, 26, 72, 27, 16, 15, 26, 72, 8671, 509],
    "2024-06-17": [17, 15, 17, 19, 12, 15, 21, 12, 16, 22],
    "a\r\nb": [64, 188, 185, 65],
    "don't stop": [10314, 6, 83, 3070],
    "naïve café": [2490, 2865, 313, 26506, 587],
    "你好，世界": [84313, 19304, 4997],
}


def pieces(text: str) -> list[str]:
    """The pre-tokenizer's pieces as plain text."""
    return [text[start:end] for _, (start, end) in pre_tokenizer().pre_tokenize_str(text)]


class TestPreTokenizer:
    @pytest.mark.parametrize("text", PUBLISHED)
    def test_cuts_as_many_pieces_as_the_published_tokens(self, text: str) -> None:
        assert len(pieces(text)) == len(PUBLISHED[text])

    def test_published_ids_and_pieces_match_one_to_one(self) -> None:
        pairs = {pair for text, ids in PUBLISHED.items() for pair in zip(pieces(text), ids, strict=True)}
        assert len({piece for piece, _ in pairs}) == len({token_id for _, token_id in pairs}) == len(pairs)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("2024", ["2", "0", "2", "4"]),
            ("x²½٣", ["x", "²", "½", "٣"]),
            ("\n\n\r\n", ["\n", "\n", "\r", "\n"]),
            (" \n", [" ", "\n"]),
            ("\t\tx", ["\t", "\tx"]),
            ("    x", ["   ", " x"]),
            ("a   ", ["a", "   "]),
            ("1   2", ["1", "   ", "2"]),
            ("  // c", [" ", " //", " c"]),
            ("x += y;", ["x", " +=", " y", ";"]),
            ("foo_bar", ["foo", "_", "bar"]),
            ("Führer", ["F", "ü", "hrer"]),
            ("Привет, мир", ["Привет", ",", " мир"]),
            ("你好，世界", ["你好", "，", "世界"]),
            ("カタカナ한국어", ["カタカナ한국어"]),
            ("x你y", ["x", "你", "y"]),
            (" 你", [" ", "你"]),
            ("🚀 launch", ["🚀", " launch"]),
            ("（x）", ["（", "x", "）"]),
            ("ไทย", ["ไทย"]),
            ("שלום", ["שלום"]),
            ("", []),
        ],
    )
    def test_cuts_by_the_published_rules(self, text: str, expected: list[str]) -> None:
        assert pieces(text) == expected

    @given(st.text())
    def test_pieces_join_to_the_text(self, text: str) -> None:
        assert "".join(pieces(text)) == text


class TestTraining:
    def test_byte_tokens_have_their_published_ids(self) -> None:
        tokenizer = train_bpe([], SMALLEST)
        published = {"0": 15, "9": 24, " ": 207, "\n": 185, "\r": 188, "\t": 184, ":": 25, "!": 0, "a": 64}
        ids = {text: tokenizer.encode(text, add_special_tokens=False).ids for text in published}
        assert ids == {text: [token_id] for text, token_id in published.items()}

    @pytest.mark.parametrize("text", ["2024-06-17", "a\r\nb"])
    def test_texts_of_single_bytes_have_their_published_ids(self, text: str) -> None:
        assert tiny_tokenizer().encode(text) == PUBLISHED[text]

    def test_the_alphabet_covers_every_byte_of_utf8_and_no_other(self) -> None:
        assert len(byte_alphabet()) == 243
        tokenizer = tiny_tokenizer()
        covered = {tokenizer.token_bytes(i) for i in range(243)}
        assert covered == {bytes([b]) for b in range(256) if b not in {0xC0, 0xC1, *range(0xF5, 256)}}

    def test_control_tokens_follow_the_vocabulary_with_the_published_flags(self) -> None:
        added = train_bpe(LINES, VOCAB_SIZE).get_added_tokens_decoder()
        assert list(added) == list(range(VOCAB_SIZE - 18, VOCAB_SIZE))
        assert [token.content for token in added.values()] == list(CONTROL_TOKENS)
        assert [token.content for token in added.values() if token.special] == [BOS, EOS]
        for token in added.values():
            assert token.normalized
            assert (token.lstrip, token.rstrip, token.single_word) == (False, False, False)

    def test_control_tokens_keep_the_published_order(self) -> None:
        assert CONTROL_TOKENS[:5] == (BOS, EOS, FIM_HOLE, FIM_BEGIN, FIM_END)
        assert CONTROL_TOKENS[8] == "<|EOT|>"
        assert len(set(CONTROL_TOKENS)) == 18

    @pytest.mark.parametrize("size", [SMALLEST, 300, VOCAB_SIZE])
    def test_the_size_counts_every_token(self, size: int) -> None:
        assert train_bpe(LINES, size).get_vocab_size() == size

    def test_the_vocabulary_is_smaller_when_the_texts_run_out(self) -> None:
        assert SMALLEST <= train_bpe(["ab ab ab"], 5000).get_vocab_size() < SMALLEST + 5

    def test_a_size_without_room_for_the_bytes_is_refused(self) -> None:
        with pytest.raises(InvalidValue, match=f"at least {SMALLEST}, not {SMALLEST - 1}") as caught:
            train_bpe(LINES, SMALLEST - 1)
        assert caught.value.param == "vocab_size"

    def test_is_deterministic(self) -> None:
        assert train_bpe(LINES, VOCAB_SIZE).to_str() == train_bpe(iter(LINES), VOCAB_SIZE).to_str()

    def test_no_token_holds_two_digits_or_two_newlines(self) -> None:
        tokenizer = train_bpe(["11 22 1122\n\n\n\n"] * 50, 400)
        tokens = [tokenizer.decode([i]) for i in range(tokenizer.get_vocab_size() - 18)]
        assert all(sum(character.isdigit() for character in token) <= 1 for token in tokens)
        assert all(token == "\n" or "\n" not in token for token in tokens)

    def test_marker_text_in_the_texts_leaves_the_order_of_ids_alone(self) -> None:
        tokenizer = train_bpe([FIM_HOLE * 20], 400)
        assert tokenizer.get_vocab_size(with_added_tokens=False) == tokenizer.token_to_id(BOS)


class TestSaving:
    def test_the_file_gives_the_same_ids_with_bos_once_in_front(self, tmp_path: Path) -> None:
        saved = Tokenizer.from_file(str(tiny_tokenizer_folder(tmp_path) / "tokenizer.json"))
        assert saved.encode("Hello world").ids == tiny_tokenizer().encode("Hello world", bos=True)
        assert saved.encode("x", add_special_tokens=False).ids == tiny_tokenizer().encode("x")

    def test_the_config_says_what_other_programs_need(self, tmp_path: Path) -> None:
        save_tokenizer(train_bpe(LINES, VOCAB_SIZE), tmp_path / "new", model_max_length=8192)
        config = json.loads((tmp_path / "new" / "tokenizer_config.json").read_text(encoding="utf-8"))
        assert config["model_max_length"] == 8192
        assert (config["bos_token"], config["eos_token"], config["pad_token"]) == (BOS, EOS, EOS)
        assert config["add_bos_token"] is True
        assert config["add_eos_token"] is False
        assert config["clean_up_tokenization_spaces"] is False
        assert config["chat_template"] == CHAT_TEMPLATE

    def test_saving_twice_writes_the_same_bytes(self, tmp_path: Path) -> None:
        first, second = tiny_tokenizer_folder(tmp_path / "a"), tiny_tokenizer_folder(tmp_path / "b")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What Transformers makes of a saved folder."""
    transformers = pytest.importorskip("transformers")
    folder = tiny_tokenizer_folder(tmp_path_factory.mktemp("checkpoint"))
    (folder / "config.json").write_text('{"model_type": "deepseek_v2"}', encoding="utf-8")
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.slow
class TestTransformers:
    """Transformers opens a saved folder and agrees."""

    TEXTS = (
        *PUBLISHED,
        "",
        "  \t x",
        f"{FIM_BEGIN}def f():\n{FIM_HOLE}\n    return 1{FIM_END}",
        "<|fim_begin|>",
        f"a{EOS}b",
    )
    CONVERSATIONS = (
        [Message("user", "write a quick sort algorithm in python.")],
        [Message("system", "You are a helpful AI assistant"), Message("user", "List 3 countries.")],
        [Message("user", "Hi"), Message("assistant", "Hello!"), Message("user", "Bye")],
        [Message("user", "a"), Message("developer", " b \n"), Message("user", "c"), Message("assistant", "")],
    )

    @pytest.mark.parametrize("text", TEXTS)
    def test_gives_the_same_ids_with_bos_once(self, opened: Any, text: str) -> None:
        expected = tiny_tokenizer().encode(text, bos=True, control=True)
        assert opened(text).input_ids == expected
        assert opened.encode(text) == expected
        assert opened(text, add_special_tokens=False).input_ids == expected[1:]

    @pytest.mark.parametrize("text", TEXTS)
    @pytest.mark.parametrize("skip", [False, True])
    def test_decodes_to_the_same_text(self, opened: Any, text: str, skip: bool) -> None:
        ids = tiny_tokenizer().encode(text, bos=True, control=True)
        decoded = opened.decode(ids, skip_special_tokens=skip)
        assert decoded == tiny_tokenizer().decode(ids, skip_special=skip)

    @pytest.mark.parametrize("messages", CONVERSATIONS)
    @pytest.mark.parametrize("prompt", [False, True])
    def test_renders_the_same_chat(self, opened: Any, messages: list[Message], prompt: bool) -> None:
        dicts = [{"role": message.role, "content": message.content} for message in messages]
        text = opened.apply_chat_template(dicts, add_generation_prompt=prompt, tokenize=False)
        assert text == render_chat(messages, add_generation_prompt=prompt)
        encoded = opened.apply_chat_template(dicts, add_generation_prompt=prompt, return_dict=True)
        assert encoded["input_ids"] == encode_chat(tiny_tokenizer(), messages, add_generation_prompt=prompt)

    def test_the_template_has_no_generation_prompt_by_default(self, opened: Any) -> None:
        text = opened.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
        assert text == f"{BOS}User: Hi\n\n"

    def test_the_template_refuses_an_unknown_role(self, opened: Any) -> None:
        with pytest.raises(Exception, match="unknown role tool"):
            opened.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)

    def test_names_the_special_ids(self, opened: Any) -> None:
        tokenizer = tiny_tokenizer()
        assert (opened.bos_token_id, opened.eos_token_id) == (tokenizer.bos_id, tokenizer.eos_id)
        assert opened.pad_token_id == tokenizer.eos_id
        assert len(opened) == tokenizer.vocab_size
