"""Which of several servers has seen the start of a prompt: that one will have it in its cache."""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

BLOCK = 64
"""Tokens that are compared as one."""
REMEMBERED = 50_000
"""Blocks; the oldest are forgotten first."""


class Affinity:
    """The blocks that each server was sent lately."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, int] = OrderedDict()

    def longest(self, prompt: Sequence[int], tenant: str) -> tuple[int | None, int]:
        """The server with the longest known start of the prompt, and how many blocks that is."""
        best: tuple[int | None, int] = (None, 0)
        for count, digest in enumerate(_digests(prompt, tenant), 1):
            if digest not in self._seen:
                break
            best = (self._seen[digest], count)
        return best

    def sent(self, prompt: Sequence[int], tenant: str, server: int) -> None:
        """It has them now."""
        for digest in _digests(prompt, tenant):
            self._seen[digest] = server
            self._seen.move_to_end(digest)
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)


def _digests(prompt: Sequence[int], tenant: str) -> list[bytes]:
    """Of each whole block and all before it."""
    digests, chain = [], tenant.encode()
    for start in range(0, len(prompt) - BLOCK + 1, BLOCK):
        block = b"".join(token.to_bytes(4, "little") for token in prompt[start : start + BLOCK])
        chain = blake2b(chain + block, digest_size=16).digest()
        digests.append(chain)
    return digests
