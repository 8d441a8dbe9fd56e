"""The driver that builds its boxes itself: namespaces, Landlock, a filter of system calls, limits of resources."""

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
from coderv2.sandbox.line import Line
from coderv2.sandbox.view import environment

_PACKAGE = Path(__file__).parent.parent


class Namespaces:
    """Keeps a warden process for each thread that runs programs side by side; each program gets a fresh box."""

    def __init__(self, *, within_bubblewrap: bool = False) -> None:
        """`within_bubblewrap`: the wardens' room is made by `bwrap`: two walls around each program."""
        self.name = "bubblewrap and namespaces" if within_bubblewrap else "namespaces"
        self._within = wrapping.room(_PACKAGE) if within_bubblewrap else []
        self._idle: list[_Warden] = []
        self._lock = threading.Lock()

    def run(self, job: Job) -> Outcome:
        job = replace(job, files=contents(job.files))
        try:
            return self._run(job)
        except WardenDied as error:  # says nothing about the program: a machine short of memory kills anybody
            logger.warning("%s; its program is run once more, by another one", error)
            return self._run(job)

    def _run(self, job: Job) -> Outcome:
        with self._lock:
            warden = self._idle.pop() if self._idle else None
        warden = warden or _Warden(self._within)
        outcome = warden.run(job)
        with self._lock:
            self._idle.append(warden)
        if isinstance(outcome, str):
            raise SandboxFailed(f"no box could be made: {outcome}")
        return outcome

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for warden in idle:
            warden.close()


class WardenDied(SandboxFailed):
    """Killed from outside, or by a program that broke out."""


class _Warden:
    """One warden process and the line to it."""

    def __init__(self, within: Sequence[str]) -> None:
        """`within` is the start of a command that makes a room; without it the warden makes its own."""
        ours, theirs = socket.socketpair()
        self._line = Line(ours.detach())
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
            trouble = self._received()
        if trouble:
            self.close()
            raise SandboxFailed(f"no room could be made for programs: {trouble}")

    def run(self, job: Job) -> Outcome | str:
        """Raises WardenDied when it is gone."""
        with suppress(BrokenPipeError):
            self._line.send(job)
        return self._received()

    def close(self) -> None:
        """The end of the line ends the warden."""
        self._line.close()
        self._process.wait()

    def _received(self) -> Outcome | str:
        try:
            outcome: Outcome | str = self._line.receive()
            return outcome
        except (EOFError, ConnectionError) as error:
            self.close()
            raise WardenDied(f"a warden died (status {self._process.returncode})") from error
