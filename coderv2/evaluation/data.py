"""Benchmark files: found in a folder that the user has, or fetched from where the public has them; read and checked.

Nothing of them ships with the package. A file may be gzipped or not, an archive packed or unpacked: what counts is the
content.
"""

import csv
import gzip
import hashlib
import io
import json
import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from coderv2 import paths
from coderv2.errors import BadData
from coderv2.log import logger
from coderv2.text.tokenizer import Tokenizer

Row = dict[str, Any]
_SECONDS = 60.0


@dataclass(frozen=True)
class Source:
    """One file, or archive of files, of a benchmark."""

    path: str
    """Below the data folder."""
    url: str = ""
    """Where the public has it, unless it has to be brought by hand."""
    how: str = ""
    """How to get it by hand."""

    @property
    def hint(self) -> str:
        """The way out, where it is missing."""
        return self.how or f"get it from {self.url}"


class Data:
    """A folder of benchmark files."""

    def __init__(
        self, folder: Path | None = None, *, tokenizer: Tokenizer | None = None, context: int | None = None
    ) -> None:
        """`folder`, else CODERV2_DATA, else a cache that is filled from the public places.

        `tokenizer` and `context` (tokens of prompt and reply) are the model's, for tasks that measure by tokens.
        """
        given = folder or paths.data()
        if folder is not None and not folder.is_dir():
            raise BadData(f"--data {folder}: no such folder")
        self.folder = given or paths.cache() / "benchmarks"
        self.fetches = given is None
        self.tokenizer = tokenizer
        self.context = context

    def find(self, source: Source) -> Path | None:
        """The file, gzipped or not, or the unpacked folder of an archive; None where there is none."""
        path = self.folder / source.path
        bare = path.parent / path.name.removesuffix(".gz").removesuffix(".tar").removesuffix(".zip")
        return next((found for found in (path, bare) if found.exists()), None)

    def renewal(self, source: Source) -> str:
        """The way out, where it is there and damaged."""
        return "remove it, and it is fetched anew" if self.fetches and source.url else source.hint

    def has(self, source: Source) -> bool:
        """Whether it is there, or can be fetched."""
        return self.find(source) is not None or (self.fetches and bool(source.url))

    def path(self, source: Source) -> Path:
        """The file; fetched first where that is allowed. Raises BadData with the way out."""
        found = self.find(source)
        if found is None and self.fetches and source.url:
            found = _fetch(source, self.folder)
        if found is None:
            raise BadData(f"{self.folder / source.path} is missing: {source.hint}")
        return found

    def rows(self, source: Source) -> list[Row]:
        """JSON objects: one a line, or one list of them."""
        path = self.path(source)
        return list(parse_rows(content(path), str(path)))

    def members(self, source: Source, suffix: str) -> dict[str, bytes]:
        """The files of an archive or folder whose names end so, by name, sorted."""
        path = self.path(source)
        try:
            found = dict(_members(path))
        except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
            raise BadData(f"{path}: damaged archive ({error})") from None
        kept = {name: content for name, content in sorted(found.items()) if name.endswith(suffix)}
        if not kept:
            raise BadData(f"{path}: holds no file that ends in {suffix}")
        return kept

    def digest(self, source: Source) -> str:
        """SHA-256 of the file, for the record of a run; of all files of a folder."""
        path, sha = self.path(source), hashlib.sha256()
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            sha.update(file.read_bytes() if file.is_file() else b"")
        return sha.hexdigest()


def parse_rows(content: bytes, name: str) -> Iterator[Row]:
    """JSON lines or a JSON list. Raises BadData, which names the line."""
    text = _text(content, name)
    if text.lstrip().startswith("["):
        yield from _checked(_json(text, name), name)
        return
    for number, line in enumerate(text.split("\n"), 1):  # U+2028 and its like may stand within JSON's strings
        if line.strip():
            yield from _checked([_json(line, f"{name}:{number}")], f"{name}:{number}")


def parse_object(content: bytes, name: str) -> Row:
    """One JSON object."""
    (row,) = _checked([_json(_text(content, name), name)], name)
    return row


def parse_csv(content: bytes, name: str) -> list[list[str]]:
    """Comma-separated values."""
    return list(csv.reader(io.StringIO(_text(content, name))))


def _checked(rows: Any, name: str) -> list[Row]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadData(f"{name}: not JSON objects")
    return rows


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadData(f"{name}: damaged, not JSON ({error})") from None


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadData(f"{name}: damaged, not UTF-8 (byte {error.start})") from None


def content(path: Path) -> bytes:
    """Of a file, unpacked where it is gzipped."""
    try:
        found = path.read_bytes()
    except OSError as error:
        raise BadData(f"{path}: cannot be read ({error.strerror})") from None
    if not found.startswith(b"\x1f\x8b"):
        return found
    try:
        return gzip.decompress(found)
    except (OSError, EOFError, zlib.error) as error:
        raise BadData(f"{path}: damaged gzip file ({error})") from None


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        for file in path.rglob("*"):
            if file.is_file():
                yield file.relative_to(path.parent).as_posix(), file.read_bytes()
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield name, archive.read(name)
    else:
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member)
                if content is not None:
                    yield PurePosixPath(member.name).as_posix(), content.read()


def _fetch(source: Source, folder: Path) -> Path:
    """Downloads to a neighbour first, so that a half file is never found."""
    path = folder / source.path
    logger.info("fetching %s", source.url)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with urllib.request.urlopen(source.url, timeout=_SECONDS) as answer:
            part.write_bytes(answer.read())
    except OSError as error:
        raise BadData(
            f"{source.url} cannot be fetched ({error}): bring it by hand as {path}, or as {source.path} in the folder "
            "that --data names"
        ) from None
    part.replace(path)
    return path
