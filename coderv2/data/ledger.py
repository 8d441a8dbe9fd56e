"""What a model was trained on, by source: shipped beside the weights so that anyone can check it."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from coderv2.data.document import Document


@dataclass(frozen=True)
class Entry:
    """One source; a source of which some files are held out has two entries."""

    source: str
    version: str
    licence: str
    held_out: bool
    files: int
    bytes: int
    sha256: str
    """Of the files' UTF-8 bytes, concatenated in the order of their ids."""


def entries(documents: Iterable[Document]) -> list[Entry]:
    """One entry per source, version, licence and use, sorted."""
    groups: defaultdict[tuple[str, str, str, bool], list[Document]] = defaultdict(list)
    for document in documents:
        groups[document.source, document.version, document.licence, document.held_out].append(document)
    return [_entry(*key, members) for key, members in sorted(groups.items())]


def as_json(documents: Iterable[Document]) -> list[dict[str, Any]]:
    return [asdict(entry) for entry in entries(documents)]


def _entry(source: str, version: str, licence: str, held_out: bool, members: list[Document]) -> Entry:
    digest, size = hashlib.sha256(), 0
    for document in sorted(members, key=lambda document: document.id):
        data = document.text.encode()
        digest.update(data)
        size += len(data)
    return Entry(source, version, licence, held_out, len(members), size, digest.hexdigest())
