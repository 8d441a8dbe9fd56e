"""The process behind `namespaces`: it waits in a read-only room, in namespaces of its own, and forks the programs.

Its namespaces are kept from one program to the next, for making them takes as long as a short program does. Nothing of
a program is left in them: all of its processes are killed, what it wrote is unmounted, it was a user that nobody else
will be, and what else a namespace could keep (message queues, shared memory) the filter of system calls denies.

A program that is Python is not started but forked: the interpreter is already running, and the program gets a copy.
What a program or its tests are made of, and what it wrote, must never lie in the heap, where the next copy would find
it: it comes and goes as views of a `Store`, with no copy of it made.
Each page and each mapped library of this process is work for every fork: it imports only what programs import too.
"""

import gc
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from coderv2.errors import CoderV2Error
from coderv2.sandbox import files, room, seccomp, syscalls
from coderv2.sandbox.isolation import NAMESPACES, Walls, be_first, clear_folders, make_folders
from coderv2.sandbox.limits import Job, Limits, Outcome
from coderv2.sandbox.line import Line
from coderv2.sandbox.memory import Memory
from coderv2.sandbox.offspring import Offspring, living
from coderv2.sandbox.script import Script, warm_up
from coderv2.sandbox.view import BOX
from coderv2.sandbox.watch import watch


@dataclass(frozen=True)
class Streams:
    """Both ends of a program's pipes, as file descriptors; the last pair tells why it did not begin."""

    stdin: int
    stdout: tuple[int, int]
    stderr: tuple[int, int]
    report: tuple[int, int]

    @classmethod
    def open(cls, stdin: bytes) -> "Streams":
        """All of them close at an exec."""
        given = os.memfd_create("stdin")
        files.pour(stdin, given)
        os.lseek(given, 0, os.SEEK_SET)
        return cls(given, files.pipe(), files.pipe(), os.pipe())

    @property
    def readers(self) -> tuple[int, int, int]:
        """What the warden keeps."""
        return self.stdout[0], self.stderr[0], self.report[0]

    @property
    def given(self) -> tuple[int, int, int]:
        """Standard input, output and error of the program."""
        return self.stdin, self.stdout[1], self.stderr[1]

    def give(self) -> None:
        """To the program, in whose process this is called."""
        for number, fd in enumerate(self.given):
            os.dup2(fd, number)

    def let_go(self) -> None:
        """Of the program's ends, in the warden."""
        for fd in (*self.given, self.report[1]):
            os.close(fd)

    def close(self) -> None:
        """The warden's ends."""
        for fd in self.readers:
            os.close(fd)


class Warden:
    """Runs one job at a time. Must be the first process of its namespace."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._filter = seccomp.program()
        self._offspring = Offspring()
        self._kept: tuple[object, Script] | None = None

    def serve(self) -> Script | None:
        """Runs what is asked until nobody asks any more. In a process that is to be a Python program: that program."""
        while True:
            try:
                result = self.run(self._line.receive())
                if isinstance(result, Script):
                    return result
                self._line.send(result, views_as=bytes)
            except (EOFError, ConnectionError):
                return None

    def run(self, job: Job) -> Outcome | str | Script:
        """How the program ended; a text when no box could be made for it."""
        streams = Streams.open(job.stdin)
        trouble, program = "", 0
        try:
            make_folders(job.limits)
            files.write(BOX, files.contents(job.files))
            walls, script = Walls.made(job.limits, self._filter), self._script(job)
            program = os.fork()
        except OSError as error:
            trouble = f"{type(error).__name__}: {error}"
        else:
            if program == 0:
                _begin(walls, streams)
                return script or _execute(job.command)
            walls.close()
        streams.let_go()
        outcome = trouble or self._watched(program, streams, job.limits)
        streams.close()
        clear_folders()
        return outcome

    def _script(self, job: Job) -> Script | None:
        """What the program is, if it is Python; loaded, if it may be, and kept until another one is."""
        script = Script.of(job.command)
        if script is None or not job.trusted:
            return script
        theirs = {path: bytes(data) for path, data in files.contents(job.files).items()}
        if self._kept is None or self._kept[0] != theirs:
            self._kept = theirs, script.loaded()
            _settle()
        return self._kept[1]

    def _watched(self, program: int, streams: Streams, limits: Limits) -> Outcome | str:
        def resident() -> int:
            self._line.raise_if_over()  # who asked was killed, or wants no answer any more
            self._offspring.reap()
            return memory.bytes(living())

        memory, ended = Memory(outside=False), os.pidfd_open(program)
        try:
            seen = watch(*streams.readers[:2], ended, resident, self._offspring.end, limits)
        finally:
            os.close(ended)
        if trouble := os.read(streams.report[0], 1 << 12):
            return trouble.decode()
        if seen.limit:
            return seen.outcome(seen.limit, None)
        code = self._offspring.exit_code(program)
        return seen.outcome("killed" if code < 0 else "exited", code)


def _begin(walls: Walls, streams: Streams) -> None:
    try:
        streams.give()
        walls.shut()
    except BaseException as error:
        os.write(streams.report[1], f"{type(error).__name__}: {error}".encode())
        os._exit(1)
    os.closerange(3, 1 << 16)


def _settle() -> None:
    """What is there now will stay: the collector need not touch it, in no copy either."""
    gc.collect()
    gc.freeze()


def _execute(command: Sequence[str]) -> NoReturn:
    try:
        os.execvp(command[0], list(command))
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        os._exit(127)


def main(fd: int, empty: str) -> Script | None:
    """`fd` is one end of a line, `empty` a folder to build the room in, nothing for one who is in a room."""
    line = Line(fd)
    try:
        warm_up()
        if empty:
            room.enter(empty)
        os.chdir("/")
        first = syscalls.fork(NAMESPACES)
        if first:
            line.close()
            os.waitpid(first, 0)
            return None
        be_first()
        warden = Warden(line)
        _settle()
    except (OSError, CoderV2Error) as error:
        line.send(f"{error}")
        return None
    line.send("")
    return warden.serve()


if __name__ == "__main__":
    script = main(int(sys.argv[1]), sys.argv[2])
    if script:
        script.run()
