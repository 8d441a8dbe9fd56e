"""The answer to a healed prompt: it begins with what was taken before the cursor, and ends with what was behind it."""

from collections.abc import Iterable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from coderv2.text.healing import Healed, Healer
from coderv2.text.tokenizer import Tokenizer


class Healing:
    """Heals prompts for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """`vocab_size` is the model's."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size

    @cached_property
    def _healer(self) -> Healer:
        # Sorting a vocabulary of 100,000 takes a moment, and most engines never need it.
        return Healer(self._tokenizer)

    def heal(self, prompt_ids: Sequence[int]) -> Healed:
        """The prompt without its broken tokens."""
        return self._healer.heal(prompt_ids)

    def constraint(self, healed: Healed, end_ids: Iterable[int]) -> "Regrowth | None":
        """What the answer must be, if anything was taken; `end_ids` are the tokens that end it."""
        if not healed.before and not healed.after:
            return None
        return Regrowth(healed, self._healer, self._tokenizer, self._vocab_size, end_ids)


class Regrowth:
    """How much of that the answer has brought so far: a `Constraint`."""

    finished = False
    error: str | None = None

    def __init__(
        self, healed: Healed, healer: Healer, tokenizer: Tokenizer, vocab_size: int, end_ids: Iterable[int]
    ) -> None:
        """Tokens of `end_ids` are allowed only where `healed.after` is complete."""
        self._left = healed.before
        self._after = healed.after
        self._written = b""
        """The end of the answer's text, as long as `after` at most."""
        self._healer = healer
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._end_ids = sorted(end_ids)

    @property
    def spent(self) -> bool:
        """True when all tokens are allowed from here on."""
        return not self._left and not self._after

    def allowed(self) -> Tensor | None:
        """Bool [W]; None when all may come."""
        if self._left:
            return self._only(self._healer.spelling(self._left))
        if self._written.endswith(self._after):
            return None
        allowed_W = torch.ones(self._vocab_size, dtype=torch.bool)
        allowed_W[self._end_ids] = False
        return allowed_W

    def accept(self, token_id: int) -> None:
        """The answer has this token now."""
        spelled = self._tokenizer.token_bytes(token_id)
        new = spelled[len(self._left) :]
        self._left = self._left[len(spelled) :]
        self._written = (self._written + new)[-len(self._after) :] if self._after else b""

    def fitting(self, token_ids: Sequence[int]) -> int:
        """How many of these tokens could come next."""
        left = self._left
        for count, token_id in enumerate(token_ids):
            spelled = self._tokenizer.token_bytes(token_id)
            if left and not (spelled and (left.startswith(spelled) or spelled.startswith(left))):
                return count
            left = left[len(spelled) :]
        return len(token_ids)

    def forced(self) -> Sequence[int]:
        """Nothing: the vocabulary spells a text in several ways."""
        return ()

    def _only(self, token_ids: Sequence[int]) -> Tensor:
        allowed_W = torch.zeros(self._vocab_size, dtype=torch.bool)
        allowed_W[list(token_ids)] = True
        return allowed_W
