"""The process behind `namespaces`: it waits in a read-only room and forks a fresh box for each program.

A program that is Python is not started but forked: the interpreter is already running, and the program gets a copy.
"""

import gc
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from coderv2.errors import CoderV2Error
from coderv2.sandbox import files, room, seccomp, syscalls
from coderv2.sandbox.isolation import NAMESPACES, be_first, be_nobody, be_secret
from coderv2.sandbox.limits import Job, Limits, Outcome
from coderv2.sandbox.script import Script, warm_up
from coderv2.sandbox.view import BOX, environment
from coderv2.sandbox.watch import resident_bytes, watch


@dataclass(frozen=True)
class Streams:
    """Both ends of a program's pipes, as file descriptors; the last pair tells how it ended."""

    stdin: int
    stdout: tuple[int, int]
    stderr: tuple[int, int]
    report: tuple[int, int]

    @classmethod
    def open(cls, stdin: bytes) -> "Streams":
        """All of them close at an exec."""
        given = os.memfd_create("stdin")
        with os.fdopen(os.dup(given), "wb") as file:
            file.write(stdin)
        os.lseek(given, 0, os.SEEK_SET)
        return cls(given, os.pipe(), os.pipe(), os.pipe())

    @property
    def readers(self) -> tuple[int, int, int]:
        """What the warden keeps."""
        return self.stdout[0], self.stderr[0], self.report[0]

    @property
    def given(self) -> tuple[int, int, int]:
        """Standard input, output and error of the program."""
        return self.stdin, self.stdout[1], self.stderr[1]

    @property
    def writers(self) -> tuple[int, ...]:
        """What the box keeps."""
        return *self.given, self.report[1]

    def close(self, fds: tuple[int, ...]) -> None:
        """In the process that has no use for them."""
        for fd in fds:
            os.close(fd)

    def tell(self, **report: object) -> None:
        """How the program ended, or why it did not begin."""
        os.write(self.report[1], json.dumps(report).encode())

    def told(self) -> dict[str, Any]:
        """What was told, if something was."""
        with suppress(BlockingIOError):
            return dict(json.loads(os.read(self.report[0], 1 << 16) or b"{}"))
        return {}


class Warden:
    """Runs one job at a time."""

    def __init__(self, line: "Connection[Outcome | str, Job]") -> None:
        self._line = line
        self._filter = seccomp.program()

    def serve(self) -> Script | None:
        """Runs what is asked until nobody asks any more. In a process that is to be a Python program: that program."""
        while True:
            try:
                job = self._line.recv()
            except (EOFError, ConnectionError):
                return None
            result = self.run(job)
            if isinstance(result, Script):
                return result
            self._line.send(result)

    def run(self, job: Job) -> Outcome | str | Script:
        """How the program ended; a text when no box could be made for it."""
        streams = Streams.open(job.stdin)
        first = syscalls.fork(NAMESPACES)
        if first == 0:
            return self._box(job, streams)
        streams.close(streams.writers)
        try:
            return _watched(first, streams, job.limits)
        finally:
            streams.close(streams.readers)

    def _box(self, job: Job, streams: Streams) -> Script:
        try:
            be_first(job.limits)
            files.write(BOX, job.files)
            program = os.fork()
            if program == 0:
                return self._program(job, streams)
            be_secret()
            streams.close(streams.given)
            streams.tell(ended=_wait(program))
        except BaseException as error:
            streams.tell(failed=f"{type(error).__name__}: {error}")
        os._exit(0)

    def _program(self, job: Job, streams: Streams) -> Script:
        try:
            for number, fd in enumerate(streams.given):
                os.dup2(fd, number)
            be_nobody(job.limits, self._filter)
            os.environ.clear()
            os.environ.update(environment())
        except BaseException as error:
            streams.tell(failed=f"{type(error).__name__}: {error}")
            os._exit(1)
        self._line.close()
        os.closerange(3, 1 << 16)
        return Script.of(job.command) or _execute(job.command)


def _execute(command: Sequence[str]) -> NoReturn:
    try:
        os.execvp(command[0], list(command))
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        os._exit(127)


def _wait(program: int) -> int:
    """The first process is the one that buries what others left behind."""
    while True:
        pid, status = os.wait()
        if pid == program:
            return status


def _watched(first: int, streams: Streams, limits: Limits) -> Outcome | str:
    def end() -> None:  # the kernel kills all others with the first, and then lets go of it
        with suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)

    seen = watch(*streams.readers, lambda: resident_bytes(first), end, limits)
    told = streams.told()
    if seen.limit:
        return Outcome(seen.limit, None, seen.stdout, seen.stderr, seen.seconds)
    if "ended" not in told:
        return str(told.get("failed", "the first process of a box died"))
    code = os.waitstatus_to_exitcode(told["ended"])
    return Outcome("killed" if code < 0 else "exited", code, seen.stdout, seen.stderr, seen.seconds)


def main(fd: int, empty: str) -> Script | None:
    """`fd` is one end of a connection, `empty` a folder to build the room in, nothing for one who is in a room."""
    line: Connection[Outcome | str, Job] = Connection(fd)
    try:
        warm_up()
        warden = Warden(line)
        if empty:
            room.enter(empty)
        os.chdir("/")
        gc.collect()
        gc.freeze()
    except (OSError, CoderV2Error) as error:
        line.send(f"{error}")
        return None
    line.send("")
    return warden.serve()


if __name__ == "__main__":
    script = main(int(sys.argv[1]), sys.argv[2])
    if script:
        script.run()
