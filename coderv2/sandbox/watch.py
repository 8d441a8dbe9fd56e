"""Watches a started program: gathers its output, keeps its limits, says how it ended."""

import os
import selectors
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from coderv2.sandbox.limits import Limits, Outcome, Status
from coderv2.sandbox.memory import Memory
from coderv2.sandbox.store import Store

if TYPE_CHECKING:  # a warden has no use for it
    import subprocess

LOOK_SECONDS = 0.02
STANDSTILL_SECONDS = 1.0
"""A look that takes longer than this found the watch itself stopped, not the program slow."""


@dataclass(frozen=True)
class Watched:
    """What the watch saw until the program ended by itself (`limit` is None) or a limit was passed."""

    limit: Status | None
    stdout: bytes
    stderr: bytes
    seconds: float

    def outcome(self, status: Status, code: int | None) -> Outcome:
        """With how the program ended."""
        return Outcome(status, code, self.stdout, self.stderr, self.seconds)


def watch_process(
    process: "subprocess.Popen[bytes]",
    end: Callable[[], None],
    limits: Limits,
    counted: Iterable[str] = (),
) -> Watched:
    """`watch` for a child of this process whose output is piped. `counted`: see `Memory`."""
    assert process.stdout
    assert process.stderr
    memory = Memory(outside=True, folders=counted)
    pipes, ended = (process.stdout.fileno(), process.stderr.fileno()), os.pidfd_open(process.pid)
    try:
        seen = watch(*pipes, ended, lambda: memory.bytes(_tree(process.pid)), end, limits)
        return replace(seen, stdout=bytes(seen.stdout), stderr=bytes(seen.stderr))
    finally:
        os.close(ended)


def watch(
    stdout: int, stderr: int, ended: int, resident: Callable[[], int], end: Callable[[], None], limits: Limits
) -> Watched:
    """Reads both pipes until `ended` becomes readable or a limit is passed, then calls `end`, then reads what is left.

    `end` must leave no process alive that could still write, or not for long. Time in which everything stood still (a
    paused container, a stopped process group) is not the program's. What was read are views of a `Store`.
    """
    output = {fd: Store(limits.output_bytes + 1) for fd in (stdout, stderr)}
    with selectors.DefaultSelector() as selector:
        for fd in (*output, ended):
            os.set_blocking(fd, False)
            selector.register(fd, selectors.EVENT_READ)
        limit, seconds = _until_the_end(selector, output, ended, resident, limits)
        end()
        selector.unregister(ended)
        _read_the_rest(selector, output, limits.output_bytes)
    if limit is None and _too_long(output, limits):
        limit = "output"
    out, err = (cast(bytes, store.view(limits.output_bytes)) for store in output.values())
    return Watched(limit, out, err, seconds)


def _until_the_end(
    selector: selectors.BaseSelector,
    output: dict[int, Store],
    ended: int,
    resident: Callable[[], int],
    limits: Limits,
) -> tuple[Status | None, float]:
    clock = Clock()
    look = LOOK_SECONDS
    while True:
        now = clock.seconds()
        if now >= limits.seconds:
            return "timeout", now
        if now >= look:
            if resident() > limits.memory_bytes:
                return "memory", now
            look = now + LOOK_SECONDS
        ready = {key.fd for key, _ in selector.select(min(look, limits.seconds) - now)}
        _read(selector, output, ready)
        if _too_long(output, limits):
            return "output", clock.seconds()
        if ended in ready:
            return None, clock.seconds()


class Clock:
    """Seconds since it was made, without those in which its reader, who reads it often, was stopped."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._seconds = 0.0

    def seconds(self) -> float:
        """Of a standstill only the first STANDSTILL_SECONDS count."""
        now = time.monotonic()
        self._seconds += min(now - self._last, STANDSTILL_SECONDS)
        self._last = now
        return self._seconds


def _read(selector: selectors.BaseSelector, output: dict[int, Store], ready: set[int]) -> None:
    for fd in ready & output.keys():
        if not output[fd].read(fd):
            selector.unregister(fd)


def _read_the_rest(selector: selectors.BaseSelector, output: dict[int, Store], most: int) -> None:
    deadline = time.monotonic() + 1.0
    while selector.get_map() and time.monotonic() < deadline and max(map(len, output.values())) <= most:
        _read(selector, output, {key.fd for key, _ in selector.select(LOOK_SECONDS)})


def _too_long(output: dict[int, Store], limits: Limits) -> bool:
    return max(map(len, output.values())) > limits.output_bytes


def _tree(pid: int) -> Iterator[int]:
    """A process and all that it started."""
    yield pid
    try:
        children = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return
    for child in " ".join(children).split():
        yield from _tree(int(child))
