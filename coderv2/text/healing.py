"""Token healing: a prompt that ends in the middle of a token goes on as if the token had been typed whole.

The last tokens of the text before the cursor are taken back when some token of the vocabulary would have reached
further, and the answer has to begin with their text, spelled as the model likes. In an infilling prompt the same is
done before the hole; and when a token of the whole text spans the cursor, the part of it behind the cursor is taken
from the suffix too, and the answer has to end with it. What was taken is not part of the text that is shown.
"""

from bisect import bisect_left
from codecs import getincrementaldecoder
from collections.abc import Sequence
from dataclasses import dataclass

from coderv2.text.tokenizer import Tokenizer

_WINDOW = 24
"""Tokens on either side of the cursor from which the token that spans it is found."""
_CONTINUATION = bytes(range(0x80, 0xC0))
"""Bytes of UTF-8 that no character begins with."""


@dataclass(frozen=True)
class Healed:
    """A prompt without its broken tokens, and the text that the answer has to bring instead."""

    prompt_ids: list[int]
    before: bytes = b""
    """What the answer begins with."""
    after: bytes = b""
    """What it ends with."""


class Healer:
    """A vocabulary sorted by the bytes of its tokens; safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        fim = tokenizer.fim
        self.control_ids = tokenizer.special_ids | (
            frozenset() if fim is None else {fim.begin, fim.hole, fim.end}
        )
        self._tokenizer = tokenizer
        spelled = ((tokenizer.token_bytes(i), i) for i in range(tokenizer.vocab_size))
        self._sorted = sorted(pair for pair in spelled if pair[0] and pair[1] not in self.control_ids)
        self._keys = [key for key, _ in self._sorted]
        self._longest = max(map(len, self._keys))

    def heal(self, prompt_ids: Sequence[int]) -> Healed:
        """The prompt healed at its end, or at the edges of its hole; as it is where no token is broken."""
        hole = self._hole(prompt_ids)
        if hole is None:
            count, before = self._taken(prompt_ids)
            return Healed(list(prompt_ids[: len(prompt_ids) - count]), before)
        prefix, suffix = prompt_ids[:hole], prompt_ids[hole + 1 : -1]
        count, before = self._taken(prefix)
        after, suffix = self._cut_suffix(prefix, suffix)
        return Healed([*prefix[: hole - count], prompt_ids[hole], *suffix, prompt_ids[-1]], before, after)

    def spelling(self, text: bytes) -> list[int]:
        """Tokens with which a text that begins with `text` can begin."""
        ids = [i for key, i in self._starting_with(text)]
        for end in range(1, len(text)):
            ids += [i for key, i in self._starting_with(text[:end], most=1) if key == text[:end]]
        return ids

    def _hole(self, prompt_ids: Sequence[int]) -> int | None:
        fim = self._tokenizer.fim
        if fim is None or prompt_ids[-1] != fim.end or fim.hole not in prompt_ids:
            return None
        return list(prompt_ids).index(fim.hole)

    def _taken(self, ids: Sequence[int]) -> tuple[int, bytes]:
        """How many of the last tokens are the beginning of a longer one, and their text."""
        count, taken, tail = 0, b"", b""
        # The first token stays, since a prompt has to have one.
        for place in range(len(ids) - 1, 0, -1):
            tail = self._tokenizer.token_bytes(ids[place]) + tail
            if ids[place] in self.control_ids or len(tail) >= self._longest:
                break
            if any(key != tail for key, _ in self._starting_with(tail, most=2)):
                count, taken = len(ids) - place, tail
        return count, taken

    def _cut_suffix(self, prefix: Sequence[int], suffix: Sequence[int]) -> tuple[bytes, Sequence[int]]:
        """The part of the suffix that belongs to a token spanning the cursor, b"" if none does, and the rest."""
        if not self.control_ids.isdisjoint(suffix):
            return b"", suffix
        try:
            taken = self._spanning_end(prefix, suffix)
            taken.decode()
            rest = self._text(suffix).removeprefix(taken).decode()
        except UnicodeDecodeError:
            return b"", suffix  # a border within a character
        ids = self._tokenizer.encode(rest) if taken else suffix
        # A prompt that fitted before must not grow.
        return (taken, ids) if len(ids) <= len(suffix) else (b"", suffix)

    def _spanning_end(self, prefix: Sequence[int], suffix: Sequence[int]) -> bytes:
        """What lies behind the cursor of the token that spans it in the whole text."""
        near = list(prefix[-_WINDOW:])
        while not self.control_ids.isdisjoint(near):
            near.pop(0)
        # Characters that the window's outer edges cut are left out; one that the cursor cuts is an error.
        before, behind = self._text(near).lstrip(_CONTINUATION), self._text(suffix[:_WINDOW])
        window, end = getincrementaldecoder("utf-8")().decode(before + behind), 0
        for token_id in self._tokenizer.encode(window):
            start, end = end, end + len(self._tokenizer.token_bytes(token_id))
            if start < len(before) < end:
                return behind[: end - len(before)]
        return b""

    def _text(self, ids: Sequence[int]) -> bytes:
        return b"".join(map(self._tokenizer.token_bytes, ids))

    def _starting_with(self, text: bytes, most: int | None = None) -> list[tuple[bytes, int]]:
        first = bisect_left(self._keys, text)
        last = first
        while last < len(self._keys) and self._keys[last].startswith(text) and last - first != most:
            last += 1
        return self._sorted[first:last]
