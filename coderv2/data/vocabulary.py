"""A vocabulary of one's own: byte-level BPE with DeepSeek-V2's pre-tokenizer and control tokens."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from coderv2.errors import InvalidValue
from coderv2.text.chat import CHAT_TEMPLATE
from coderv2.text.published import CONTROL_TOKENS, bos_in_front, control_token, pre_tokenizer
from coderv2.text.tokenizer import BOS, EOS

# Bytes that UTF-8 never holds get no token, which leaves the published 243 symbols.
_IMPOSSIBLE_BYTES = {0xC0, 0xC1, *range(0xF5, 0x100)}


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a byte-level BPE vocabulary of `vocab_size` tokens, control tokens included.

    The result has fewer when the texts run out of pairs to merge. The same texts give the same vocabulary.
    Raises InvalidValue when `vocab_size` has no room for the bytes and the control tokens.
    """
    alphabet = byte_alphabet()
    smallest = len(alphabet) + len(CONTROL_TOKENS)
    if vocab_size < smallest:
        raise InvalidValue(f"vocab_size must be at least {smallest}, not {vocab_size}", param="vocab_size")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(CONTROL_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([control_token(text) for text in CONTROL_TOKENS])
    tokenizer.post_processor = bos_in_front(tokenizer)
    return tokenizer


def byte_alphabet() -> list[str]:
    """One symbol for every byte that can occur in UTF-8, in the order of their ids."""
    impossible = {
        chr(byte) for byte in _IMPOSSIBLE_BYTES
    }  # these bytes' symbols are their Latin-1 characters
    return sorted(set(pre_tokenizers.ByteLevel.alphabet()) - impossible)


def save_tokenizer(tokenizer: Tokenizer, folder: Path, *, model_max_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json, so that Transformers opens the folder with the same ids."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": BOS,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS,
        "model_max_length": model_max_length,
        "pad_token": EOS,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
