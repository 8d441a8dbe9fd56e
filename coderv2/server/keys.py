"""Who may come in: a file of keys, kept as digests, each with a name and its limits.

    [[keys]]
    name = "alice"
    sha256 = "9f86d0…"          # of the key; `coderv2 key` makes both
    requests_per_minute = 600   # these four may be left out
    tokens_per_minute = 200000
    concurrent = 32
    control_tokens = false      # text never becomes a control token

A key is looked up by its digest, so that nothing about a wrong one shows in the time that takes.
"""

import hashlib
import json
import secrets
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hmac import compare_digest
from pathlib import Path
from typing import Any

from coderv2.errors import InvalidValue

_FIELDS = {
    "name": str,
    "sha256": str,
    "requests_per_minute": int,
    "tokens_per_minute": int,
    "concurrent": int,
    "control_tokens": bool,
}


@dataclass(frozen=True)
class Key:
    """What is known of one."""

    name: str
    sha256: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None
    control_tokens: bool = True


class Keys:
    """All keys of a server."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = tuple(keys)

    @classmethod
    def from_file(cls, path: Path) -> "Keys":
        """Raises InvalidValue, with the place, for a file that cannot be read or that holds no keys."""
        try:
            entries = tomllib.loads(path.read_text("utf-8-sig")).get("keys")
        except FileNotFoundError:
            raise InvalidValue(
                f"{path}: no such file; `coderv2 key NAME >> {path}` makes it", param="keys"
            ) from None
        except (OSError, ValueError) as error:
            raise InvalidValue(f"{path}: cannot be read: {error}", param="keys") from None
        if not isinstance(entries, list) or not entries:
            raise InvalidValue(f"{path}: holds no [[keys]]; `coderv2 key NAME` makes one", param="keys")
        keys = [_key(entry, f"{path}: key {place + 1}") for place, entry in enumerate(entries)]
        if len({key.name for key in keys}) < len(keys) or len({key.sha256 for key in keys}) < len(keys):
            raise InvalidValue(f"{path}: two keys share a name or a digest", param="keys")
        return cls(keys)

    def find(self, presented: str) -> Key | None:
        """The key, if it is one. Compares with every digest, whatever is presented."""
        digest = digest_of(presented)
        found = None
        for key in self._keys:
            if compare_digest(key.sha256, digest):
                found = key
        return found


def digest_of(key: str) -> str:
    """What the file keeps of a key. Keys hold 256 random bits, so a plain hash cannot be searched."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def new_key() -> str:
    """A fresh one."""
    return f"sk-{secrets.token_urlsafe(32)}"


def _key(entry: Any, place: str) -> Key:
    if not isinstance(entry, Mapping):
        raise InvalidValue(f"{place} is no table", param="keys")
    for name, value in entry.items():
        kind = _FIELDS.get(name)
        if kind is None:
            raise InvalidValue(f"{place}: {name} is not known; fields are {', '.join(_FIELDS)}", param="keys")
        if type(value) is not kind or (isinstance(value, int) and value < 1 and kind is int):
            raise InvalidValue(f"{place}: {name} = {value!r} is no good", param="keys")
    digest = entry.get("sha256", "")
    if not entry.get("name") or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise InvalidValue(f"{place} needs a name and a sha256 of 64 hex digits", param="keys")
    return Key(**entry)


def toml_of(name: str, digest: str) -> str:
    """A key's lines in the file."""
    return f"[[keys]]\nname = {json.dumps(name)}\nsha256 = {json.dumps(digest)}"
