"""Programs of others that hold a benchmark's protocol: found on PATH, run with a time limit, their words kept."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from coderv2.errors import ServiceError


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    code: int
    output: str
    """Standard output and error together."""


def absent(programs: Sequence[str], how: str) -> str | None:
    """What to say where one of the programs is not on PATH; None where all are."""
    lacking = [program for program in programs if shutil.which(program) is None]
    return f"{' and '.join(lacking)} on PATH: {how}" if lacking else None


async def call(
    *command: str, folder: Path, seconds: float, environment: Mapping[str, str] | None = None
) -> Ended:
    """Runs it in a folder; past its time it ends with the code 124. Raises ServiceError where it cannot start.

    What it started and left behind ends with it, unless that left its session. It finds `environment`, or all of ours.
    """
    # A file rather than a pipe: what a program leaves behind would hold a pipe open, and us at its end.
    with tempfile.TemporaryFile() as said:
        try:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=folder, env=environment, stdin=asyncio.subprocess.DEVNULL,
                stdout=said, stderr=asyncio.subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise ServiceError(f"{command[0]} cannot be run: {error.strerror}") from None
        try:
            await asyncio.wait_for(process.wait(), seconds)
        except TimeoutError:
            return Ended(124, f"{' '.join(command)}: not done after {seconds:.0f} s")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        said.seek(0)
        return Ended(process.returncode or 0, said.read().decode(errors="replace"))
