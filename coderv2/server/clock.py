"""When a request began, brought its first token, and its last."""

import time


class Clock:
    """Seconds of one request; a token is told of by `tick`."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.first: float | None = None
        self.last: float | None = None
        self.tokens = 0
        self.gaps: list[float] = []
        """Seconds between steps that brought tokens, after the first."""

    def tick(self, tokens: int) -> None:
        """So many tokens have come."""
        if tokens <= 0:
            return
        now = time.perf_counter()
        if self.last is None:
            self.first = now
        else:
            self.gaps.append(now - self.last)
        self.last = now
        self.tokens += tokens

    @property
    def prompt_seconds(self) -> float:
        """From the start to the first token."""
        return (self.first or time.perf_counter()) - self.began

    @property
    def answer_seconds(self) -> float:
        """From the first token to the last."""
        return 0.0 if self.first is None or self.last is None else self.last - self.first
