"""No protection, limits only: for machines that hold programs otherwise, such as a container made for one run."""

import os
import signal
import subprocess
import tempfile
from contextlib import suppress

from coderv2.sandbox.files import contents, write
from coderv2.sandbox.limits import Job, Limits, Outcome, ending
from coderv2.sandbox.running import Running
from coderv2.sandbox.view import environment
from coderv2.sandbox.watch import watch_process


class Unprotected:
    """Runs programs as the user who asked, in a temporary folder, with that user's files and network in reach.

    The process group is killed at the end; a program that leaves its group stays. Processes are not counted: the kernel
    would count the user's own.
    """

    name = "unprotected"

    def __init__(self) -> None:
        self._running = Running()

    def run(self, job: Job) -> Outcome:
        with (
            tempfile.TemporaryDirectory(prefix="coderv2-", ignore_cleanup_errors=True) as folder,
            tempfile.TemporaryFile() as given,
        ):
            write(folder, contents(job.files))
            given.write(job.stdin)
            given.seek(0)
            with subprocess.Popen(
                [*_limited(job.limits), *job.command],
                cwd=folder,
                env={**environment(), "HOME": folder, "TMPDIR": folder},
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            ) as process:
                return _outcome(process, job.limits, self._running)

    def close(self) -> None:
        self._running.close()


def _limited(limits: Limits) -> list[str]:
    return ["prlimit", *(option for option in limits.options() if not option.startswith("--nproc"))]


def _outcome(process: subprocess.Popen[bytes], limits: Limits, running: Running) -> Outcome:
    def end() -> None:
        with suppress(ProcessLookupError):
            if process.returncode is None:  # else the number may be another's by now
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    with running.until_ended(end):
        seen = watch_process(process, end, limits)
    if seen.limit:
        return seen.outcome(seen.limit, None)
    code = process.returncode
    return seen.outcome(*ending(128 - code if code < 0 else code))
