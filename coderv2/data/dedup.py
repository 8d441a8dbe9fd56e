"""Drops exact and near duplicates: the first of each kind is kept.

Near duplicates are found by MinHash (Broder 1997) over runs of five words, looked up by bands of the signature.
"""

import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from coderv2.data.document import Document

HASHES = 64
BANDS = 16
SHINGLE = 5
SIMILAR = 0.7

Signature = NDArray[np.uint64]

_random = np.random.default_rng(0)
_MULTIPLIERS = _random.integers(1, 2**63, size=(HASHES, 1), dtype=np.uint64) | np.uint64(1)
_OFFSETS = _random.integers(0, 2**63, size=(HASHES, 1), dtype=np.uint64)


def exact(documents: Iterable[Document]) -> Iterator[Document]:
    """Drops a document whose text, white space aside, was seen before."""
    seen: set[bytes] = set()
    for document in documents:
        key = hashlib.sha256(" ".join(document.text.split()).encode()).digest()
        yield document.drop("exact duplicate") if key in seen else document
        seen.add(key)


def near(documents: Iterable[Document]) -> Iterator[Document]:
    """Drops a document that shares about `SIMILAR` of its word runs with an earlier one."""
    index = _Index()
    for document in documents:
        marks = signature(document.text)
        if index.find(marks):
            yield document.drop("near duplicate")
        else:
            index.add(marks)
            yield document


def signature(text: str) -> Signature:
    """`HASHES` minima; the share of equal entries of two signatures estimates the texts' Jaccard similarity."""
    words = np.array([zlib.crc32(word.encode()) for word in re.findall(r"\w+", text)], dtype=np.uint64)
    padded = np.concatenate([words, np.zeros(SHINGLE, dtype=np.uint64)])
    runs = np.zeros(max(len(words) - SHINGLE + 1, 1), dtype=np.uint64)
    for place in range(SHINGLE):
        runs = runs * np.uint64(0x9E3779B97F4A7C15) + padded[place : place + len(runs)]
    hashed = np.unique(runs) * _MULTIPLIERS + _OFFSETS
    minima: Signature = (hashed >> np.uint64(16)).min(axis=1)
    return minima


@dataclass
class _Index:
    """Signatures by band: two that share a whole band are compared in full."""

    bands: dict[tuple[int, bytes], list[Signature]] = field(default_factory=dict)

    def find(self, marks: Signature) -> bool:
        return any(
            float((marks == other).mean()) >= SIMILAR
            for key in self._keys(marks)
            for other in self.bands.get(key, [])
        )

    def add(self, marks: Signature) -> None:
        for key in self._keys(marks):
            self.bands.setdefault(key, []).append(marks)

    @staticmethod
    def _keys(marks: Signature) -> list[tuple[int, bytes]]:
        return [(number, band.tobytes()) for number, band in enumerate(np.split(marks, BANDS))]
