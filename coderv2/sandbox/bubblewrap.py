"""The driver that lets bubblewrap build the box."""

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import PurePosixPath

from coderv2.errors import SandboxFailed
from coderv2.sandbox import seccomp
from coderv2.sandbox.limits import DEFAULTS, Limits, Outcome, Status, ending
from coderv2.sandbox.view import BOX, DEVICES, NOBODY, environment, folders, shown
from coderv2.sandbox.watch import resident_bytes, watch

NEEDS = {
    "bwrap": "bubblewrap",
    "prlimit": "util-linux",
    "setpriv": "util-linux",
}  # program → Debian's package


class Bubblewrap:
    """Runs each program in a box that `bwrap` makes and that ends with it. Keeps nothing running."""

    name = "bubblewrap"

    def run(
        self,
        command: Sequence[str],
        *,
        files: Mapping[str, str | bytes] = {},
        stdin: bytes = b"",
        limits: Limits = DEFAULTS,
    ) -> Outcome:
        with ExitStack() as fds:
            report, reporting = os.pipe()
            fds.callback(os.close, report)
            inside = {path: _in_memory(fds, contents) for path, contents in files.items()}
            filtered = _in_memory(fds, seccomp.program())
            wrapped = [
                *self._room,
                *_writable(limits),
                *_files(inside),
                *("--json-status-fd", str(reporting), "--seccomp", str(filtered), "--"),
                *_limited(limits),
                *command,
            ]
            try:
                process = subprocess.Popen(
                    wrapped,
                    stdin=_in_memory(fds, stdin),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=[*inside.values(), filtered, reporting],
                )
            finally:
                os.close(reporting)
            with process:
                return _outcome(process, report, limits)

    def close(self) -> None:
        """Nothing is kept."""

    @cached_property
    def _room(self) -> list[str]:
        return ["bwrap", *_namespaces(), *_environment(), *_view()]


def missing() -> list[str]:
    """The Debian packages that this driver lacks here."""
    return sorted({package for program, package in NEEDS.items() if not shutil.which(program)})


def _namespaces() -> list[str]:
    apart = ["pid", "net", "ipc", "uts", "cgroup-try"]
    options = [f"--unshare-{namespace}" for namespace in apart]
    options += ["--die-with-parent", "--new-session", "--hostname", "box"]
    if os.getuid() == 0:  # bwrap keeps what it needs to become nobody, see `_limited`
        return [*options, "--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return [*options, "--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY)]


def _environment() -> list[str]:
    settings = [("--setenv", name, value) for name, value in environment().items()]
    return ["--clearenv", *(word for setting in settings for word in setting)]


def _view() -> list[str]:
    parents = {str(parent) for path in shown() for parent in path.parents} - {"/"}
    options = [word for parent in sorted(parents) for word in ("--perms", "0755", "--dir", parent)]
    options += [word for path in shown() for word in ("--ro-bind", str(path), str(path))]
    options += ["--proc", "/proc", "--dir", "/dev"]
    options += [word for device in DEVICES for word in ("--dev-bind", device, device)]
    for name, number in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        options += ["--symlink", f"/proc/self/fd{number}", f"/dev/{name}"]
    return options


def _writable(limits: Limits) -> list[str]:
    options = []
    for path in folders():
        options += ["--perms", "0777", "--size", str(limits.folder_bytes), "--tmpfs", path]
    return [*options, "--remount-ro", "/", "--chdir", BOX]


def _files(inside: Mapping[str, int]) -> Iterable[str]:
    parents = {str(parent) for path in inside for parent in PurePosixPath(path).parents} - {"."}
    for parent in sorted(parents):
        yield from ("--perms", "0777", "--dir", f"{BOX}/{parent}")
    for path, fd in inside.items():
        yield from ("--perms", "0777", "--file", str(fd), f"{BOX}/{path}")


def _limited(limits: Limits) -> list[str]:
    command = ["prlimit", *(f"--{name}={value}" for name, value in limits.resources().items())]
    if os.getuid() == 0:  # a user that nobody else is, for the kernel counts processes by user
        someone = str((1 << 30) + secrets.randbelow(1 << 30))
        command += ["setpriv", "--reuid", someone, "--regid", someone, "--clear-groups", "--inh-caps=-all"]
    return command


def _in_memory(fds: ExitStack, contents: str | bytes) -> int:
    fd = os.memfd_create("file")
    fds.callback(os.close, fd)
    data = contents.encode() if isinstance(contents, str) else contents
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _outcome(process: subprocess.Popen[bytes], report: int, limits: Limits) -> Outcome:
    assert process.stdout
    assert process.stderr
    pid = process.pid
    ended = os.pidfd_open(pid)

    def end() -> None:  # the kernel then kills the first process inside, and so all of them
        process.kill()
        process.wait()

    try:
        pipes = process.stdout.fileno(), process.stderr.fileno()
        seen = watch(*pipes, ended, lambda: resident_bytes(pid), end, limits)
    finally:
        os.close(ended)
    if seen.limit:
        return Outcome(seen.limit, None, seen.stdout, seen.stderr, seen.seconds)
    return Outcome(*_ending(report, seen.stderr), seen.stdout, seen.stderr, seen.seconds)


def _ending(report: int, stderr: bytes) -> tuple[Status, int]:
    """bwrap tells its program's exit status in a second line of JSON, if it came to start it."""
    lines = os.read(report, 1 << 16).decode().splitlines()
    code = next((found["exit-code"] for line in lines if "exit-code" in (found := json.loads(line))), None)
    if code is None:
        raise SandboxFailed(f"bubblewrap made no box: {stderr.decode(errors='replace').strip()}")
    return ending(code)
