"""Text to calibrate and judge quantised weights on: rows of tokens, some to learn from and others to be judged on."""

import hashlib
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from coderv2.errors import BadData
from coderv2.text.tokenizer import Tokenizer

ROW = 1024
"""Tokens in a row at most."""
_LEARN, _JUDGE = 32, 16
_SKIPPED = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "turtledemo",
    "site-packages",
    "dist-packages",
    "__pycache__",
}
_LARGEST = 1 << 20


@dataclass(frozen=True)
class Rows:
    """Token rows, and where they came from."""

    learn: list[list[int]]
    judge: list[list[int]]
    """Of other files than `learn`."""
    source: str

    def without_judging(self) -> "Rows":
        """The same, to calibrate only."""
        return replace(self, judge=[])


def rows_of(tokenizer: Tokenizer, given: Path | None, *, learn: int = _LEARN, judge: int = _JUDGE) -> Rows:
    """Rows from a file or folder, or from the standard library of the Python that runs.

    A third of the files, chosen by their names, is held out. Of one file alone the first two thirds are learnt from and
    the rest is judged on. Raises BadData when there is too little text.
    """
    files = _files(given)
    if len(files) == 1:
        ids = tokenizer.encode(_text(files[0]))
        cut = len(ids) * 2 // 3
        parts = list(_cut([ids[:cut]], tokenizer)), list(_cut([ids[cut:]], tokenizer))
    else:
        held = [int(hashlib.sha256(path.name.encode()).hexdigest(), 16) % 3 == 0 for path in files]
        parts = (
            _taken((f for f, out in zip(files, held, strict=True) if not out), tokenizer, learn),
            _taken((f for f, out in zip(files, held, strict=True) if out), tokenizer, judge),
        )
    if not all(parts):
        raise BadData(
            f"{given or 'the standard library'}: too little text (UTF-8) to calibrate with and to judge on"
        )
    return Rows(
        parts[0][:learn], parts[1][:judge], str(given) if given else f"standard library of {_library()}"
    )


def _library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _files(given: Path | None) -> list[Path]:
    """In an order that scatters neighbours, so that the first few are a mixture."""
    if given is not None and given.is_file():
        return [given]
    root = given or _library()
    if not root.is_dir():
        raise BadData(f"{root}: no file or folder of text to calibrate with")
    found = [p for p in root.rglob("*" if given else "*.py") if _wanted(p, root)]
    return sorted(found, key=lambda path: hashlib.sha256(str(path.relative_to(root)).encode()).digest())


def _wanted(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    return (
        not any(part in _SKIPPED or part.startswith(".") for part in parts)
        and path.is_file()
        and 0 < path.stat().st_size <= _LARGEST
    )


def _text(path: Path) -> str:
    """Nothing of a file that is no text."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        return ""


def _taken(files: Iterator[Path], tokenizer: Tokenizer, count: int) -> list[list[int]]:
    rows: list[list[int]] = []
    for path in files:
        # Two rows of a file at most: more files see more experts.
        rows += list(_cut([tokenizer.encode(_text(path))], tokenizer))[:2]
        if len(rows) >= count:
            break
    return rows


def _cut(texts: Sequence[Sequence[int]], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Rows of at most `ROW` tokens, BOS included; scraps under 32 are left."""
    for ids in texts:
        for first in range(0, len(ids), ROW - 1):
            if len(piece := ids[first : first + ROW - 1]) >= 32:
                yield [tokenizer.bos_id, *piece]
