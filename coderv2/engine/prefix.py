"""Names for the contents of full pages, such that equal names mean equal tokens from the first on.

The digest of a page is SHA-256 over the digest of the page before it and the page's own tokens; the first starts from
the salt. A salt per tenant keeps one tenant from finding out, by the time its prompts take, what another has sent.
"""

from array import array
from collections.abc import Sequence
from hashlib import sha256


def salt(kind: str, *owner: str) -> bytes:
    """Where a chain starts: sequences share pages only when their kind of cache content and their owner are equal."""
    return sha256(repr((kind, *owner)).encode()).digest()


class Chain:
    """Digests of one sequence's full pages, computed as far as they are asked for and kept."""

    def __init__(self, start: bytes) -> None:
        self.start = start
        self._digests: list[bytes] = []

    def digests(self, tokens: Sequence[int], page_size: int, pages: int) -> list[bytes]:
        """Those of the first `pages` pages, which `tokens` fills."""
        while (done := len(self._digests)) < pages:
            page = array("I", tokens[done * page_size : (done + 1) * page_size])
            before = self._digests[-1] if done else self.start
            self._digests.append(sha256(before + page.tobytes()).digest())
        return self._digests[:pages]
