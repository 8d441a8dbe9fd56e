"""The driver that lets bubblewrap build the box."""

import json
import os
import secrets
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property

from coderv2.errors import SandboxFailed
from coderv2.sandbox import seccomp, wrapping
from coderv2.sandbox.files import contents, inner_folders, pipe
from coderv2.sandbox.limits import Job, Limits, Outcome, Status, ending
from coderv2.sandbox.privilege import USERS, privileged
from coderv2.sandbox.running import Running
from coderv2.sandbox.view import BOX, NOBODY, folders
from coderv2.sandbox.watch import watch_process


class Bubblewrap:
    """Runs each program in a box that `bwrap` makes and that ends with it. Keeps nothing running."""

    name = "bubblewrap"

    def __init__(self) -> None:
        self._running = Running()

    def run(self, job: Job) -> Outcome:
        with ExitStack() as fds:
            report, reporting = os.pipe()
            fds.callback(os.close, report)
            inside = {path: _in_memory(fds, data) for path, data in contents(job.files).items()}
            filtered = _in_memory(fds, seccomp.program())
            wrapped = [
                *self._room,
                *_writable(job.limits),
                *_files(inside),
                *("--json-status-fd", str(reporting), "--seccomp", str(filtered), "--"),
                *_limited(job.limits),
                *job.command,
            ]
            try:
                process = _started(
                    wrapped, _in_memory(fds, job.stdin), [*inside.values(), filtered, reporting]
                )
            finally:
                os.close(reporting)
            with process:
                return _outcome(process, report, job.limits, self._running)

    def close(self) -> None:
        self._running.close()

    @cached_property
    def _room(self) -> list[str]:
        killed_first = ["choom", "-n", "1000", "--"]  # when the machine's memory is short
        return [
            *killed_first,
            "bwrap",
            "--die-with-parent",
            *wrapping.apart(),
            *_rights(),
            *wrapping.view(),
            *_hidden(),
        ]


def _rights() -> list[str]:
    if privileged():  # bwrap keeps what it needs to become nobody, see `_limited`
        return ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return ["--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY)]


def _hidden() -> list[str]:
    """The first process inside is bwrap's own: it has the caller's environment, and where the caller is not root it is
    the same user as the program, who could read and write its memory."""
    return ["--tmpfs", "/proc/1", "--remount-ro", "/proc/1"]


def _writable(limits: Limits) -> list[str]:
    options = []
    for path in folders():
        options += ["--perms", "0777", "--size", str(limits.folder_bytes), "--tmpfs", path]
    return [*options, "--remount-ro", "/", "--chdir", BOX]


def _files(inside: Mapping[str, int]) -> Iterable[str]:
    for folder in inner_folders(inside):
        yield from ("--perms", "0777", "--dir", f"{BOX}/{folder}")
    for path, fd in inside.items():
        yield from ("--perms", "0777", "--file", str(fd), f"{BOX}/{path}")


def _limited(limits: Limits) -> list[str]:
    command = ["prlimit", *limits.options()]
    if privileged():  # a user that nobody else is, for the kernel counts processes by user
        someone = str(secrets.choice(USERS))
        command += ["setpriv", "--reuid", someone, "--regid", someone, "--clear-groups", "--inh-caps=-all"]
    return command


def _in_memory(fds: ExitStack, data: bytes) -> int:
    fd = os.memfd_create("file")
    fds.callback(os.close, fd)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _started(command: Sequence[str], stdin: int, passed: Sequence[int]) -> subprocess.Popen[bytes]:
    """An interrupt from the keyboard is for the caller only."""
    with ExitStack() as ours, ExitStack() as theirs:
        (stdout, out), (stderr, err) = pipe(), pipe()
        readers = [ours.enter_context(os.fdopen(fd, "rb", 0)) for fd in (stdout, stderr)]
        for fd in (out, err):
            theirs.callback(os.close, fd)
        process = subprocess.Popen(
            command, stdin=stdin, stdout=out, stderr=err, pass_fds=passed, start_new_session=True
        )
        process.stdout, process.stderr = readers
        ours.pop_all()
    return process


def _outcome(process: subprocess.Popen[bytes], report: int, limits: Limits, running: Running) -> Outcome:
    def end() -> None:  # the kernel then kills the first process inside, and so all of them
        process.kill()
        process.wait()

    with running.until_ended(end):
        seen = watch_process(process, end, limits, folders())
    if seen.limit:
        return seen.outcome(seen.limit, None)
    return seen.outcome(*_ending(report, seen.stderr))


def _ending(report: int, stderr: bytes) -> tuple[Status, int]:
    """bwrap tells its program's exit status in a second line of JSON, if it came to start it."""
    lines = os.read(report, 1 << 16).decode().splitlines()
    code = next((found["exit-code"] for line in lines if "exit-code" in (found := json.loads(line))), None)
    if code is None:
        raise SandboxFailed(f"bubblewrap made no box: {stderr.decode(errors='replace').strip()}")
    return ending(code)
