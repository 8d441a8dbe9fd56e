"""Guessing how an answer goes on from text that is there already, so that one forward pass checks many tokens.

Two sources: the client's own `prediction` (the file that is being edited), and what prompt and answer hold already.
Each keeps a finger on a place of its text; the finger moves on while the answer copies the text, is lifted where the
answer departs from it, and is put down again where the answer's last tokens are found. How often the text under the
finger was right is counted whether or not it was proposed, which costs nothing; so a source that does not pay stays
silent, and speaks again when it would have paid. `speculation` decides how much is proposed, `choosing` checks it: no
draft can change an answer.
"""

from bisect import bisect_left
from collections.abc import Sequence
from sys import maxsize

# Tokens of the answer that put the finger down. Two for a prediction, where the nearest place ahead is nearly always
# the right one; three for all text so far, which has no such order.
PREDICTION_KEY = 2
NGRAM_KEY = 3
# How likely the next token is right before anything is known, after so many right ones in a row: 0, 1, 2, 4, 8 or more.
PREDICTION_TRUST = (0.85, 0.9, 0.95, 0.97, 0.98)
NGRAM_TRUST = (0.4, 0.5, 0.6, 0.7, 0.8)
_READ = 1024
"""Tokens of a text that are read at once: half a millisecond."""
_MEMORY = 32
"""Guesses over which a rate is averaged."""


class Source:
    """A text that the answer may copy, and the finger on it."""

    def __init__(self, tokens: list[int], key: int, trust: Sequence[float], *, place: int | None) -> None:
        """`tokens` may grow; `place` is where the answer is expected to begin, if anywhere."""
        self._tokens = tokens
        self._key = key
        self._rates = list(trust)
        self._place = place
        self._run = 0
        # Text without an order of its own is most likely taken up where it stood last.
        self._front = maxsize if place is None else 0
        self._found: dict[tuple[int, ...], list[int]] = {}
        self._indexed = 0

    def observe(self, answer: Sequence[int]) -> None:
        """The answer, or prompt and answer, has one more token at its end."""
        self._index()
        if self._place is not None:
            self._judge(answer[-1])
        if self._place is None:
            self._place = self._find(tuple(answer[-self._key :]))
            self._run = 0

    def propose(self, count: int) -> tuple[list[int], list[float]]:
        """At most `count` tokens that may come next, and how likely each is right if those before it are."""
        if self._place is None:
            return [], []
        tokens = self._tokens[self._place : self._place + count]
        return tokens, [self._rates[self._grade(self._run + i)] for i in range(len(tokens))]

    def _judge(self, token_id: int) -> None:
        assert self._place is not None
        if self._place >= len(self._tokens):
            self._place = None
            return
        hit = self._tokens[self._place] == token_id
        grade = self._grade(self._run)
        self._rates[grade] += (hit - self._rates[grade]) / _MEMORY
        self._run += 1
        self._place = self._place + 1 if hit else None
        # Only a place that has proved itself counts as how far the answer has come.
        if self._place is not None and self._run >= 8:
            self._front = self._place

    def _grade(self, run: int) -> int:
        return min(run.bit_length(), len(self._rates) - 1)

    def _find(self, key: tuple[int, ...]) -> int | None:
        """Where the text goes on after `key`: the nearest place ahead, or else the last one behind."""
        places = self._found.get(key)
        if len(key) < self._key or not places:
            return None
        ahead = bisect_left(places, self._front)
        return places[ahead] if ahead < len(places) else places[-1]

    def _index(self) -> None:
        """Goes on reading the text; a long one takes several steps, so that none is held up."""
        first = max(self._indexed, self._key)
        # A place at the text's end is left for later: nothing goes on there yet.
        last = min(len(self._tokens), first + _READ)
        for end in range(first, last):
            self._found.setdefault(tuple(self._tokens[end - self._key : end]), []).append(end)
        self._indexed = max(self._indexed, last)


class Drafter:
    """What one request's sources propose."""

    def __init__(self, tokens: list[int], prediction: Sequence[int] = ()) -> None:
        """`tokens` are prompt and answer, and grow; the answer has not begun yet."""
        self._tokens = tokens
        self._sources = [Source(tokens, NGRAM_KEY, NGRAM_TRUST, place=None)]
        if prediction:
            self._sources.insert(0, Source(list(prediction), PREDICTION_KEY, PREDICTION_TRUST, place=0))

    def observe(self) -> None:
        """The answer has one more token."""
        for source in self._sources:
            source.observe(self._tokens)

    def propose(self, count: int) -> tuple[list[int], list[float]]:
        """Of the first source that has its finger down; a prediction comes before what was written so far."""
        for source in self._sources:
            tokens, chances = source.propose(count)
            if tokens:
                return tokens, chances
        return [], []
