"""Ends of an answer that llama.cpp's editors ask for: a line that is indented less, or the first after so much time."""

import re
import time
from collections.abc import Callable

_INDENT = re.compile(r"\n([ \t]*)(?=[^ \t\r\n])")


class Cut:
    """One answer's text, piece by piece."""

    def __init__(self, indent: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """0 stands for neither."""
        self.ended = False
        self._indent = indent
        self._seconds = seconds
        self._clock = clock
        self._began: float | None = None
        self._held = ""

    def push(self, text: str) -> str:
        """What may be told; `ended` says whether that was all."""
        if self.ended:
            return ""
        self._began = self._clock() if self._began is None else self._began
        self._held += text
        end = self._end()
        if end is not None:
            self.ended = True
            said, self._held = self._held[:end].removesuffix("\r"), ""
            return said
        safe = len(self._held.rstrip(" \t\r\n" if self._indent else "\r"))
        said, self._held = self._held[:safe], self._held[safe:]
        return said

    def finish(self) -> str:
        """What was held back."""
        held, self._held = self._held, ""
        return held

    def _end(self) -> int | None:
        if self._late() and "\n" in self._held:
            return self._held.index("\n")
        less = (m.start() for m in _INDENT.finditer(self._held) if len(m[1]) < self._indent)
        return next(less, None)

    def _late(self) -> bool:
        return bool(self._seconds) and self._began is not None and self._clock() - self._began > self._seconds
