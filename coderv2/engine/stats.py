"""How busy an engine is."""

from dataclasses import astuple, dataclass
from operator import add


@dataclass(frozen=True)
class EngineStats:
    """How busy an engine is."""

    running: int
    waiting: int
    pages_used: int
    """Held by a running sequence."""
    pages_total: int
    pages_idle: int
    """Not held, but kept for prompts that start the same."""
    prompt_tokens: int
    """Of all requests that have started."""
    cached_tokens: int
    """Those of them that were found in the cache."""
    draft_tokens: int
    """Guessed tokens that were checked."""
    accepted_tokens: int
    """Those of them that were right."""
    gave_up: int = 0
    """Requests that waited too long in the queue."""

    def __add__(self, other: "EngineStats") -> "EngineStats":
        """Of two engines."""
        return EngineStats(*map(add, astuple(self), astuple(other)))
