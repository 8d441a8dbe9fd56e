"""The driver that builds its boxes itself: namespaces, Landlock, a filter of system calls, limits of resources."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from coderv2.errors import SandboxFailed
from coderv2.log import logger
from coderv2.sandbox import wrapping
from coderv2.sandbox.files import contents
from coderv2.sandbox.limits import Job, Outcome
from coderv2.sandbox.line import Line, beside
from coderv2.sandbox.running import Running
from coderv2.sandbox.view import environment

_PACKAGE = Path(__file__).parent.parent
_LAST_SECONDS = 10.0  # for a warden to end by itself; what a program took must be given back


class Namespaces:
    """Keeps a warden process for each thread that runs programs side by side; each program gets a fresh box."""

    def __init__(self, *, within_bubblewrap: bool = False) -> None:
        """`within_bubblewrap`: the wardens' room is made by `bwrap`: two walls around each program."""
        self.name = "bubblewrap and namespaces" if within_bubblewrap else "namespaces"
        self._within = wrapping.room(_PACKAGE) if within_bubblewrap else []
        self._wardens = Running()
        self._idle: list[_Warden] = []
        self._lock = threading.Lock()

    def run(self, job: Job) -> Outcome:
        files = {path: beside(data) for path, data in contents(job.files).items()}
        job = replace(job, files=files, stdin=beside(job.stdin))
        self._wardens.raise_if_closed()
        try:
            return self._run(self._idle_one() or _Warden(self._within), job)
        except (
            WardenFailed
        ) as error:  # says nothing about the program: a machine short of memory kills anybody
            self._wardens.raise_if_closed()
            logger.warning("%s; its program is run once more, by another one", error)
            return self._run(_Warden(self._within), job)

    def _idle_one(self) -> "_Warden | None":
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _run(self, warden: "_Warden", job: Job) -> Outcome:
        """Whatever comes between, an interrupt too, ends the warden and its program."""
        try:
            self._wardens.add(warden.end)
            outcome = warden.run(job)
        except BaseException:
            self._wardens.discard(warden.end)
            warden.close()
            raise
        with self._lock:
            self._idle.append(warden)
        return outcome

    def close(self) -> None:
        self._wardens.close()
        with self._lock:
            idle, self._idle = self._idle, []
        for warden in idle:
            warden.close()


class WardenFailed(SandboxFailed):
    """Killed from outside or by a program that broke out, or no longer able to make a box."""


class _Warden:
    """One warden process and the line to it."""

    def __init__(self, within: Sequence[str]) -> None:
        """`within` is the start of a command that makes a room; without it the warden makes its own."""
        self._socket, theirs = socket.socketpair()
        self._line = Line(os.dup(self._socket.fileno()))
        with tempfile.TemporaryDirectory(prefix="coderv2-room-") as empty, theirs:
            fd = theirs.fileno()
            command = [sys.executable, "-m", "coderv2.sandbox.warden", str(fd), "" if within else empty]
            self._process = subprocess.Popen(
                [*within, *command],
                cwd=_PACKAGE.parent,  # where Python looks for what it runs by its module's name
                env=environment(),
                stdin=subprocess.DEVNULL,
                pass_fds=[fd],
                start_new_session=True,
            )
            theirs.close()
            try:
                trouble = self._received()
            except BaseException:
                self.close()
                raise
        if trouble:
            self.close()
            raise SandboxFailed(f"no room could be made for programs: {trouble}")

    def run(self, job: Job) -> Outcome:
        """Raises WardenFailed when no box could be made, or it is gone."""
        with suppress(BrokenPipeError):
            self._line.send(job)
        outcome = self._received()
        if isinstance(outcome, str):
            raise WardenFailed(f"no box could be made: {outcome}")
        return outcome

    def end(self) -> None:
        """The end of the line ends the warden and what it runs. From any thread, however often."""
        with suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(_LAST_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Once, by whoever would have it run something."""
        self.end()
        self._line.close()
        self._socket.close()

    def _received(self) -> Outcome | str:
        try:
            outcome: Outcome | str = self._line.receive()
            return outcome
        except (EOFError, ConnectionError) as error:
            self.end()
            raise WardenFailed(f"a warden died (status {self._process.returncode})") from error
