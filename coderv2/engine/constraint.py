"""What the next token of an answer may be, where not every token may."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Constraint(Protocol):
    """The state of one answer's constraint."""

    @property
    def finished(self) -> bool:
        """True when the answer is complete and nothing may follow."""

    @property
    def spent(self) -> bool:
        """True when it allows everything from here on."""

    @property
    def error(self) -> str | None:
        """Why the constraint gave up, if it did; the request fails with it."""

    def allowed(self) -> Tensor | None:
        """Which tokens may come next, bool [W] on the CPU; None when all may."""

    def accept(self, token_id: int) -> None:
        """The answer has this token now, one of those allowed."""

    def fitting(self, token_ids: Sequence[int]) -> int:
        """How many of these tokens, from the first on, could come next."""

    def forced(self) -> Sequence[int]:
        """Tokens that are all but certain to come next, since nothing else is allowed."""
