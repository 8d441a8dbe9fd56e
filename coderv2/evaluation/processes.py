"""Programs of others that hold a benchmark's protocol: found on PATH, run with a time limit, their words kept."""

import asyncio
import shutil
from collections.abc import Sequence
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


async def call(*command: str, folder: Path, seconds: float) -> Ended:
    """Runs it in a folder; past its time it is killed, with the code 124. Raises ServiceError where it cannot start."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    except OSError as error:
        raise ServiceError(f"{command[0]} cannot be run: {error.strerror}") from None
    try:
        output, _ = await asyncio.wait_for(process.communicate(), seconds)
    except TimeoutError:
        process.kill()
        await process.wait()
        return Ended(124, f"{' '.join(command)}: not done after {seconds:.0f} s")
    return Ended(process.returncode or 0, output.decode(errors="replace"))
