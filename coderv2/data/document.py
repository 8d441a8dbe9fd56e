"""The one thing that flows through the data stages."""

import dataclasses
import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """A text with its origin. A stage that refuses it sets `dropped` to the reason and passes it on."""

    id: str
    """Unique and stable: source name and path; every random choice about the document comes from it."""
    text: str
    source: str
    """Name of the package or program that it came from."""
    version: str
    licence: str
    """An SPDX expression, or "" when nothing says."""
    held_out: bool = False
    """Kept from training, to measure on."""
    dropped: str | None = None

    def drop(self, reason: str) -> "Document":
        return dataclasses.replace(self, dropped=reason)


def choice_seed(*parts: object) -> int:
    """A number that depends on the parts alone, so that a rerun makes the same choices."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest)
