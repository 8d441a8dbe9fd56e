"""Whether a corpus holds a benchmark's texts: runs of words that a problem and a document share.

Ten words, as the paper's own filter counts; texts of three to nine words must occur whole.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coderv2.errors import BadData
from coderv2.evaluation import data

RUN = 10
_SHORTEST = 3
_SPACELESS = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_SPACELESS}]|[^\W{_SPACELESS}]+")  # of Chinese and Japanese each character
_TOO_BIG = 64 << 20  # a single text file that large is no source file


@dataclass(frozen=True)
class Hit:
    """A problem whose words stand in a document."""

    task: str
    problem: str
    document: str
    words: str
    """The first run that both have."""


@dataclass(frozen=True)
class Corpus:
    """A folder of texts, or one file of them; gzipped or not."""

    path: Path
    unsearched: list[Path] = field(default_factory=list)
    """Files that hold no text, or too much of it to be source; known after `documents`."""

    def documents(self) -> Iterator[tuple[str, str]]:
        """Names and texts: of JSON lines each row's, else each file's. Raises BadData where there is no corpus."""
        if not self.path.exists():
            raise BadData(f"{self.path}: no such corpus")
        files = [p for p in self.path.rglob("*") if p.is_file()] if self.path.is_dir() else [self.path]
        if not files:
            raise BadData(f"{self.path}: an empty folder, nothing to search")
        for file in sorted(files):
            yield from self._documents_of(file)

    def _documents_of(self, path: Path) -> Iterator[tuple[str, str]]:
        if path.name.removesuffix(".gz").endswith(".jsonl"):
            for number, row in enumerate(data.parse_rows(data.content(path), str(path)), 1):
                yield f"{path}:{number}", "\n".join(_strings(row))
        elif path.stat().st_size >= _TOO_BIG or b"\0" in (content := data.content(path)):
            self.unsearched.append(path)
        else:
            yield str(path), content.decode("utf-8", "replace")


def find(texts: Mapping[str, Mapping[str, str]], corpus: Corpus) -> Iterator[Hit]:
    """Each problem with the first document that holds a run of its text; `texts` are by task and problem."""
    runs: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for task, problems in texts.items():
        for problem, text in problems.items():
            for run in _runs(text):
                runs.setdefault(run, []).append((task, problem))
    seen: set[tuple[str, str]] = set()
    lengths = sorted({len(run) for run in runs})
    for name, text in corpus.documents():
        for run in _shared(text, runs, lengths):
            for key in runs[run]:
                if key not in seen:
                    seen.add(key)
                    yield Hit(*key, name, " ".join(run))


def searchable(text: str) -> bool:
    """Whether it has words enough to be looked for."""
    return bool(_runs(text))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


def _runs(text: str) -> set[tuple[str, ...]]:
    words = [word.lower() for word in _WORD.findall(text)]
    if len(words) < _SHORTEST:
        return set()
    size = min(RUN, len(words))
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def _shared(
    text: str, runs: Mapping[tuple[str, ...], Any], lengths: Iterable[int]
) -> Iterator[tuple[str, ...]]:
    words = [word.lower() for word in _WORD.findall(text)]
    for size in lengths:
        for i in range(len(words) - size + 1):
            if (run := tuple(words[i : i + size])) in runs:
                yield run
