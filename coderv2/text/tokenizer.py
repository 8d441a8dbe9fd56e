"""Text to token ids and back, over a checkpoint's `tokenizer.json`.

Control tokens (BOS, EOS, the fill-in-the-middle marks) are found by their exact text: U+FF5C bars and U+2581
separators. Look-alikes with ASCII bars, underscores or spaces are ordinary text.

Lone surrogates, which JSON escapes can bring, have no UTF-8 form: each becomes U+FFFD.
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, decoders, pre_tokenizers
from tokenizers import Tokenizer as Backend

from coderv2.errors import BadCheckpoint, ContextTooLong

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
FIM_BEGIN, FIM_HOLE, FIM_END = "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"

_SURROGATE = re.compile("[\ud800-\udfff]")
_MARKER = re.compile(r"<.+>", re.DOTALL)
_LINES_FIRST = rb'[{"type":"Split","pattern":{"Regex":"[\\r\\n]"},"behavior":"Isolated","invert":false},'
"""How a pre-tokenizer begins that cuts at line ends before all else, as the published one does."""
_PIECE = 1 << 14
"""Characters that are encoded at once, where a line ends there: 50 ms at the most."""


@dataclass(frozen=True)
class FimIds:
    """Ids of the three fill-in-the-middle marks."""

    begin: int
    hole: int
    end: int


class Tokenizer:
    """A byte-level BPE tokenizer with DeepSeek's control tokens. Safe to share between threads."""

    def __init__(self, backend: Backend, *, source: str = "the tokenizer") -> None:
        """Take `backend` over: its length limits go, and slow patterns make way for equal faster ones.

        `source` names the file in errors. Raises BadCheckpoint when the tokenizer is not byte-level or lacks
        BOS or EOS.
        """
        if not isinstance(backend.decoder, decoders.ByteLevel):
            raise BadCheckpoint(f"{source}: not a byte-level tokenizer (its decoder is {backend.decoder!r})")
        _unlimit(backend)
        added = backend.get_added_tokens_decoder()
        self._full = backend
        self._plain, self._plain_to_full = _without_markers(backend, added)
        self._bytes = {token_id: token.content.encode() for token_id, token in added.items()}
        ids = {token.content: token_id for token_id, token in added.items()}
        self.bos_id, self.eos_id = (_required_id(ids, text, source) for text in (BOS, EOS))
        self.fim = _fim_ids(ids)
        self.special_ids = frozenset({self.bos_id, self.eos_id, *(i for i, t in added.items() if t.special)})
        """Ids that decoding leaves out by default: BOS and EOS, but not the fill-in-the-middle marks."""
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values()) + 1
        """Highest id + 1. The model may have more rows; those decode to nothing."""
        self._longest = max(map(len, vocabulary))  # characters that a token spells at the most
        self._lines_apart = _are_lines_apart(backend, added)
        self._most: int | None = None
        self._limit = ""

    @property
    def backend(self) -> Backend:
        """The library's object, which knows control tokens."""
        return self._full

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Read `tokenizer.json`. Raises BadCheckpoint when it is missing, damaged or lacks BOS or EOS."""
        path = folder / "tokenizer.json"
        try:
            backend = Backend.from_str(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise BadCheckpoint(f"{path} is missing: a checkpoint needs its tokenizer") from error
        except Exception as error:  # the library raises bare Exception for anything wrong inside the file
            raise BadCheckpoint(f"{path} cannot be read as a tokenizer: {error}") from error
        return cls(backend, source=str(path))

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json`, which `from_folder` reads."""
        self._full.save(str(folder / "tokenizer.json"))

    def encode(self, text: str, *, bos: bool = False, control: bool = False) -> list[int]:
        """Token ids of `text`.

        With `control` False marker text is plain characters, so nobody can smuggle control tokens in; with
        True it becomes control tokens. With `bos` the result starts with exactly one BOS, also when the text
        (under `control`) brings its own.
        """
        text = _SURROGATE.sub("\ufffd", text)
        self.check(len(text) // self._longest)
        backend = self._full if control else self._plain
        ids: list[int] = []
        for piece in self._pieces(text):
            # As a batch of one: the library lets other threads run in a batch only.
            ids += backend.encode_batch_fast([piece], add_special_tokens=False)[0].ids
            self.check(len(ids))
        if self._plain_to_full and not control:
            ids = [self._plain_to_full.get(token_id, token_id) for token_id in ids]
        return self._with_one_bos(ids) if bos else ids

    def at_most(self, tokens: int, limit: str = "") -> "Tokenizer":
        """The same, refusing a text of more tokens (ContextTooLong; `limit` says why) without reading all of it.

        8 MiB, which gzip makes 8 KB of, may take half a minute.
        """
        limited = copy.copy(self)
        limited._most, limited._limit = tokens, limit or f"At most {tokens} tokens are taken"
        return limited

    def check(self, count: int) -> None:
        """Raises ContextTooLong for a text of `count` tokens or more, where that is above what `at_most` allows."""
        if self._most is not None and count > self._most:
            raise ContextTooLong(
                f"{self._limit}. However, your request has {count} input tokens or more, and was not read any further. "
                "Shorten it."
            )

    def _pieces(self, text: str) -> Iterator[str]:
        """The text in pieces whose tokens are those of the whole."""
        start = 0
        while start < len(text):
            end = text.find("\n", start + _PIECE) + 1 if self._lines_apart else 0
            yield text[start : end or None]
            start = end or len(text)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD, padding rows of the model nothing."""
        skipped = self.special_ids if skip_special else frozenset[int]()
        return b"".join(self.token_bytes(i) for i in ids if i not in skipped).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token, which may be part of a character; b"" for ids without a token."""
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = _spelled_bytes(self._full.id_to_token(token_id) or "")
        return known

    def _with_one_bos(self, ids: list[int]) -> list[int]:
        start = next((i for i, token_id in enumerate(ids) if token_id != self.bos_id), len(ids))
        return [self.bos_id, *ids[start:]]


def _are_lines_apart(backend: Backend, added: Mapping[int, AddedToken]) -> bool:
    """Whether no token reaches across a line feed, nor depends on what is beyond."""
    cuts: bytes = b"" if backend.pre_tokenizer is None else backend.pre_tokenizer.__getstate__()
    reach = any(token.lstrip or token.rstrip or "\n" in token.content for token in added.values())
    return backend.normalizer is None and _LINES_FIRST in cuts and not reach


def _unlimit(backend: Backend) -> None:
    # A file may carry a truncation limit far below what the model takes; lengths are the engine's affair.
    backend.no_truncation()
    backend.no_padding()
    if backend.pre_tokenizer is not None:
        backend.pre_tokenizer = linear_time(backend.pre_tokenizer)


def _without_markers(full: Backend, added: Mapping[int, AddedToken]) -> tuple[Backend, dict[int, int]]:
    """A tokenizer over the same vocabulary that matches no control token, and its ids that differ.

    The library finds added tokens anywhere in a text, those with special = False (as the published files mark
    the fill-in-the-middle tokens) even under `encode_special_tokens`; so a second instance that never knew
    them is needed. Added tokens that are plain words stay, or ordinary text would get other ids.
    """
    plain = Backend(full.model)  # shares the vocabulary's memory
    if full.normalizer is not None:
        plain.normalizer = full.normalizer
    plain.pre_tokenizer = full.pre_tokenizer
    words = {i: token for i, token in added.items() if not (token.special or is_marker(token.content))}
    plain.add_tokens(list(words.values()))
    renamed = ((plain.token_to_id(token.content), i) for i, token in words.items())
    return plain, {new: old for new, old in renamed if new is not None and new != old}


def linear_time(published: pre_tokenizers.PreTokenizer) -> pre_tokenizers.PreTokenizer:
    r"""The same cuts without the published pattern's quadratic time on long white space.

    `\s+$` is tried at every space of a run that something else follows: 40,000 of them take seconds. A match
    can only start where its run starts, and saying so ends the search at once.
    """
    state: bytes = published.__getstate__()  # the library's JSON, which its objects offer only to pickle
    slow, fast = rb'"\\s+$"', rb'"(?<!\\s)\\s+$"'
    if slow not in state:
        return published
    same = pre_tokenizers.Sequence([])
    same.__setstate__(state.replace(slow, fast))
    return same


def is_marker(text: str) -> bool:
    """Whether an added token is a mark such as <|EOT|> rather than a word."""
    return _MARKER.fullmatch(text) is not None


def _required_id(ids: Mapping[str, int], text: str, source: str) -> int:
    if text not in ids:
        raise BadCheckpoint(f"{source} lacks the token {text}: it is not a DeepSeek-V2 tokenizer")
    return ids[text]


def _fim_ids(ids: Mapping[str, int]) -> FimIds | None:
    if not {FIM_BEGIN, FIM_HOLE, FIM_END} <= ids.keys():
        return None
    return FimIds(ids[FIM_BEGIN], ids[FIM_HOLE], ids[FIM_END])


def _symbol_bytes() -> dict[str, int]:
    """GPT-2's byte alphabet: printable Latin-1 bytes stand for themselves, the others for U+0100 onwards."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_SYMBOL_BYTES = _symbol_bytes()


def _spelled_bytes(symbols: str) -> bytes:
    # A token with a symbol outside the alphabet is not in byte form: it stands for its own text.
    if not all(symbol in _SYMBOL_BYTES for symbol in symbols):
        return symbols.encode()
    return bytes(_SYMBOL_BYTES[symbol] for symbol in symbols)
