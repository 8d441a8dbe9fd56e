"""One line of JSON for each sample, in the file before the next begins: a run that was killed goes on where it was.

The first line says what the run is; samples of another model, prompt or data are never mixed in. A machine that loses
its power loses the last second of samples at most.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from coderv2.errors import BadData, InvalidValue, ServiceError
from coderv2.evaluation.score import Item
from coderv2.evaluation.storing import lock, refused

Record = dict[str, Any]
_SYNC_SECONDS = 1.0


@dataclass(frozen=True)
class Log:
    """A records file as it was read."""

    header: Record
    samples: list[Record]
    sound_bytes: int
    """Up to the last whole line."""


def read(path: Path) -> Log:
    """Raises BadData for a file that is damaged elsewhere than in its last line, which a kill may have torn."""
    lines = path.read_bytes().splitlines(keepends=True)
    whole = lines[:-1] if lines and not lines[-1].endswith(b"\n") else lines
    parsed = [_parse(line, f"{path}:{number}") for number, line in enumerate(whole, 1)]
    if parsed and "coderv2" not in parsed[0]:
        raise BadData(f"{path}: not a file of `coderv2 eval` (its first line is no header)")
    return Log(parsed[0] if parsed else {}, parsed[1:], sum(map(len, whole)))


def header(path: Path) -> Record:
    """The first line alone."""
    with path.open("rb") as file:
        return _parse(file.readline(), f"{path}:1")


def item(record: Mapping[str, Any]) -> Item:
    """A record as far as the numbers go."""
    verdict = record["verdict"]
    return Item(
        record["problem"], record["sample"], record["group"], verdict["value"], verdict["reason"],
        record["finish_reason"], verdict["others"], verdict["kept"],
    )  # fmt: skip


class Records:
    """A records file that grows. Use as a context manager."""

    def __init__(self, path: Path, header: Record) -> None:
        """Takes up what is there. Raises InvalidValue when that belongs to another run, or one that still writes."""
        self.path = path
        self.samples: dict[tuple[str, int], Record] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._synced_at = time.monotonic()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            _take(self._file, path)
            self._size = self._take_up(header)
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> "Records":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._sync()
        except ServiceError as failure:
            raise failure from error
        finally:
            os.close(self._file)

    def append(self, record: Record) -> None:
        """Raises ServiceError, and leaves only whole lines, when the disk takes no more."""
        self._write(record)
        self.samples[record["problem"], record["sample"]] = record
        if time.monotonic() > self._synced_at + _SYNC_SECONDS:
            self._sync()

    def items(self) -> Iterator[Item]:
        """What was recorded so far."""
        return map(item, self.samples.values())

    def _take_up(self, header: Record) -> int:
        log = read(self.path)
        self._size = log.sound_bytes if log.samples else 0  # a run that failed before its first is none
        os.ftruncate(self._file, self._size)
        if log.samples:
            _check_same(self.path, log.header, header)
        else:
            self._write(header)
        self.samples.update({(record["problem"], record["sample"]): record for record in log.samples})
        return self._size

    def _sync(self) -> None:
        """Raises ServiceError: some file systems say only now that they are full."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise refused(self.path, error, "some samples may be missing there") from None
        self._synced_at = time.monotonic()

    def _write(self, record: Record) -> None:
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            os.ftruncate(self._file, self._size)
            safe = f"the {len(self.samples)} samples so far are safe there"
            raise refused(self.path, error, safe) from None
        self._size += len(line)


def _take(file: int, path: Path) -> None:
    try:
        lock(file, path, wait=False)
    except BlockingIOError:
        raise InvalidValue(
            f"{path} is being written by another run: wait for its end, or choose another --out"
        ) from None


def _parse(line: bytes, name: str) -> Record:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise BadData(f"{name}: damaged ({error}); move the file away to begin anew") from None
    if not isinstance(record, dict):
        raise BadData(f"{name}: damaged, not an object; move the file away to begin anew")
    return record


def _check_same(path: Path, old: Record, new: Record) -> None:
    for name in old.keys() | new.keys():
        if old.get(name) != new.get(name):
            raise InvalidValue(
                f"{path} holds a run with {name} {old.get(name)!r:.120}, and this one has {new.get(name)!r:.120}: "
                "choose another --out, or the same settings to go on"
            )
