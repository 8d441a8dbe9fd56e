"""No protection, limits only: for machines that hold programs otherwise, such as a container made for one run."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress

from coderv2.sandbox.files import contents, write
from coderv2.sandbox.limits import DEFAULTS, Limits, Outcome, ending
from coderv2.sandbox.view import environment
from coderv2.sandbox.watch import resident_bytes, watch


class Unprotected:
    """Runs programs as the user who asked, in a temporary folder, with that user's files and network in reach.

    The process group is killed at the end; a program that leaves its group stays. Processes are not counted: the kernel
    would count the user's own.
    """

    name = "unprotected"

    def run(
        self,
        command: Sequence[str],
        *,
        files: Mapping[str, str | bytes] = {},
        stdin: bytes = b"",
        limits: Limits = DEFAULTS,
    ) -> Outcome:
        with tempfile.TemporaryDirectory(prefix="coderv2-", ignore_cleanup_errors=True) as folder:
            write(folder, contents(files))
            with tempfile.TemporaryFile() as given:
                given.write(stdin)
                given.seek(0)
                process = subprocess.Popen(
                    [*_limited(limits), *command],
                    cwd=folder,
                    env={**environment(), "HOME": folder, "TMPDIR": folder},
                    stdin=given,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
            with process:
                return _outcome(process, limits)

    def close(self) -> None:
        """Nothing is kept."""


def _limited(limits: Limits) -> list[str]:
    kept = {name: value for name, value in limits.resources().items() if name != "nproc"}
    return ["prlimit", *(f"--{name}={value}" for name, value in kept.items())]


def _outcome(process: subprocess.Popen[bytes], limits: Limits) -> Outcome:
    assert process.stdout
    assert process.stderr
    pid = process.pid
    ended = os.pidfd_open(pid)

    def end() -> None:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        process.wait()

    try:
        pipes = process.stdout.fileno(), process.stderr.fileno()
        seen = watch(*pipes, ended, lambda: resident_bytes(pid), end, limits)
    finally:
        os.close(ended)
    if seen.limit:
        return Outcome(seen.limit, None, seen.stdout, seen.stderr, seen.seconds)
    code = process.returncode
    return Outcome(*ending(128 - code if code < 0 else code), seen.stdout, seen.stderr, seen.seconds)
