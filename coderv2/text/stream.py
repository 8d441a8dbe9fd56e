"""Tokens to text that is safe to send while generation goes on.

Held back are the bytes of an unfinished character, and text that may turn out to be the start of a stop
string. So what was sent never has to be taken back, wherever the token borders fall.
"""

import codecs
from collections import deque
from collections.abc import Sequence
from functools import lru_cache

from coderv2.errors import InvalidValue
from coderv2.text.tokenizer import Tokenizer


class TextStream:
    """The text of one answer, token by token.

    The stop string that is complete first ends the text, so token borders make no difference; of several that
    end at the same character the longest counts. Bytes that are not UTF-8 become U+FFFD, exactly as when all
    tokens are decoded at once. Work per token does not grow with the answer.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str] = (),
        *,
        skip_special: bool = True,
        before: bytes = b"",
        after: str = "",
    ) -> None:
        """`before` and `after` are left out where the text begins and ends with them: see `healing`.

        Raises InvalidValue for an empty stop string, which would end every text before it starts.
        """
        if "" in stops:
            raise InvalidValue("a stop string must not be empty", param="stop")
        self.stopped: str | None = None
        """The stop string that was met. Neither it nor anything after it is ever returned."""
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids if skip_special else frozenset[int]()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._matcher = _matcher(tuple(stops)) if stops else None
        self._state = 0
        self._held = ""
        self._unshown = len(before)
        self._after = after
        self._tail = ""

    def search(self, stops: Sequence[str]) -> None:
        """Looks for these stop strings from here on, where none were looked for before."""
        self._matcher, self._state = (_matcher(tuple(stops)) if stops else None), 0

    def push(self, token_id: int) -> str:
        """The text that this token makes safe to send; often "" or more than the token's own."""
        if self.stopped is not None or token_id in self._skipped:
            return ""
        spelled = self._tokenizer.token_bytes(token_id)
        shown = spelled[self._unshown :]
        self._unshown -= len(spelled) - len(shown)
        return self._keep_tail(self._release(self._decoder.decode(shown)))

    def finish(self) -> str:
        """What was held back, when no more tokens come; an unfinished character becomes U+FFFD."""
        rest = ""
        if self.stopped is None:
            rest = self._release(self._decoder.decode(b"", final=True)) + self._held
            self._held, self._state = "", 0
        text, self._tail = self._tail + rest, ""
        return text.removesuffix(self._after)

    def _keep_tail(self, text: str) -> str:
        """Holds back as much as may turn out to be `after` at the end."""
        if not self._after:
            return text
        whole = self._tail + text
        safe = max(0, len(whole) - len(self._after))
        self._tail = whole[safe:]
        return whole[:safe]

    def _release(self, text: str) -> str:
        if self._matcher is None:
            return text
        for index, character in enumerate(text):
            self._state = self._matcher.advance(self._state, character)
            stop = self._matcher.stop_at[self._state]
            if stop is not None:
                return self._stop(stop, self._held + text[: index + 1])
        safe = len(self._held) + len(text) - self._matcher.depth[self._state]
        whole = self._held + text
        self._held = whole[safe:]
        return whole[:safe]

    def _stop(self, stop: str, text: str) -> str:
        self.stopped, self._held = stop, ""
        return text.removesuffix(stop)


class _StopMatcher:
    """Finds any of several strings, one character at a time (Aho and Corasick 1975).

    A state stands for the longest end of the text that starts a stop string; state 0 is none. `depth` is its
    length: what has to be held back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.depth = [0]
        self.stop_at: list[str | None] = [None]
        """The longest stop string that ends in this state."""
        self._next: list[dict[str, int]] = [{}]
        self._fallback = [0]
        for stop in stops:
            self._insert(stop)
        self._link()

    def advance(self, state: int, character: str) -> int:
        """The state after one more character."""
        while character not in self._next[state]:
            if state == 0:
                return 0
            state = self._fallback[state]
        return self._next[state][character]

    def _insert(self, stop: str) -> None:
        state = 0
        for character in stop:
            if character not in self._next[state]:
                self._next[state][character] = len(self.depth)
                self.depth.append(self.depth[state] + 1)
                self.stop_at.append(None)
                self._next.append({})
                self._fallback.append(0)
            state = self._next[state][character]
        self.stop_at[state] = stop

    def _link(self) -> None:
        # Breadth first, so that the shorter text a state falls back to is complete before it is used.
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            for character, longer in self._next[state].items():
                fallback = self.advance(self._fallback[state], character)
                self._fallback[longer] = fallback
                self.stop_at[longer] = self.stop_at[longer] or self.stop_at[fallback]
                queue.append(longer)


@lru_cache(maxsize=256)
def _matcher(stops: tuple[str, ...]) -> _StopMatcher:
    return _StopMatcher(stops)
