"""Whether a corpus holds a benchmark's texts: runs of words that a problem and a document share.

Ten words, as the paper's own filter counts; texts of three to nine words must occur whole.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coderv2.errors import BadData
from coderv2.evaluation.asking import Problem
from coderv2.evaluation.data import parse_rows

RUN = 10
_SHORTEST = 3
_WORD = re.compile(r"\w+")
_TOO_BIG = 64 << 20  # a single text file that large is no source file


@dataclass(frozen=True)
class Hit:
    """A problem whose words stand in a document."""

    task: str
    problem: str
    document: str
    words: str
    """The first run that both have."""


def find(problems: Mapping[str, Iterable[Problem]], corpus: Path) -> Iterator[Hit]:
    """Each problem with the first document that holds a run of it. `corpus` is a folder of texts, or JSON lines."""
    runs: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for task, items in problems.items():
        for problem in items:
            for run in _runs(" ".join(_texts(problem.row))):
                runs.setdefault(run, []).append((task, problem.id))
    seen: set[tuple[str, str]] = set()
    lengths = sorted({len(run) for run in runs})
    for name, text in documents(corpus):
        for run in _shared(text, runs, lengths):
            for key in runs[run]:
                if key not in seen:
                    seen.add(key)
                    yield Hit(*key, name, " ".join(run))


def documents(corpus: Path) -> Iterator[tuple[str, str]]:
    """Names and texts: the fields of JSON lines called text or content, or whole files, but binary ones.

    Raises BadData where there is no corpus.
    """
    if not corpus.exists():
        raise BadData(f"{corpus}: no such corpus")
    for path in sorted(p for p in corpus.rglob("*") if p.is_file()) if corpus.is_dir() else [corpus]:
        if path.suffix == ".jsonl":
            for number, row in enumerate(parse_rows(path.read_bytes(), str(path)), 1):
                yield f"{path}:{number}", str(row.get("text", row.get("content", "")))
        elif path.stat().st_size < _TOO_BIG and b"\0" not in (content := path.read_bytes()):
            yield str(path), content.decode("utf-8", "replace")


def _texts(value: Any) -> Iterator[str]:
    """The texts of a row that make it what it is: the question and its solution, not shots, tests, judge's words."""
    for name in (
        "prompt",
        "question",
        "text",
        "code",
        "canonical_solution",
        "problem",
        "description",
        "problem_statement",
    ):
        found = value.get(name) if isinstance(value, Mapping) else None
        if isinstance(found, str):
            yield found
        elif found is not None and hasattr(found, "text"):
            yield found.text


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
