"""What is run, what it may take, and how it ended."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["exited", "killed", "timeout", "memory", "output"]


@dataclass(frozen=True)
class Limits:
    """What one program may take."""

    seconds: float = 10.0  # on the wall
    cpu_seconds: int | None = None  # of each process
    memory_bytes: int = 1 << 30  # of each process's writable memory, and of all resident together
    processes: int = 64  # threads count
    output_bytes: int = 1 << 20  # of standard output and of standard error, each
    file_bytes: int = 16 << 20

    @property
    def folder_bytes(self) -> int:
        """What all files of one folder may take together; they lie in memory."""
        return 4 * self.file_bytes

    @property
    def folder_files(self) -> int:
        """How many there may be in one folder; empty ones take memory too."""
        return max(64, self.folder_bytes >> 12)  # for the kernel 0 is no limit

    def resources(self) -> dict[str, tuple[int, int]]:
        """The limits that the kernel keeps for each process, soft and hard, by the names of `getrlimit`, small.

        Where both limits of processor time were one, the kernel would kill without telling why (SIGKILL, not SIGXCPU).
        """
        limits = {
            "core": 0,
            "data": self.memory_bytes,  # not the address space: Java, .NET and Node reserve far more than they use
            "fsize": self.file_bytes,
            "nofile": 1024,
            "nproc": self.processes,
        }
        both = {name: (value, value) for name, value in limits.items()}
        return both if self.cpu_seconds is None else {**both, "cpu": (self.cpu_seconds, self.cpu_seconds + 1)}

    def options(self) -> list[str]:
        """The same as options of `prlimit`."""
        return [f"--{name}={soft}:{hard}" for name, (soft, hard) in self.resources().items()]


DEFAULTS = Limits()


@dataclass(frozen=True)
class Job:
    """One run of one program: a command in a folder that holds `files` (relative path → contents) and nothing else."""

    command: Sequence[str]
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    stdin: bytes = b""
    limits: Limits = DEFAULTS
    trusted: bool = False
    """The program is ours: a driver may load it once and then only call its `main`."""


@dataclass(frozen=True)
class Outcome:
    """How a program ended. `code` is its exit status, or minus the signal that killed it, or None: a limit did."""

    status: Status
    code: int | None
    stdout: bytes = field(repr=False)
    stderr: bytes = field(repr=False)
    seconds: float


def ending(code: int) -> tuple[Status, int]:
    """A shell's exit status as an outcome's: above 128 it tells a signal."""
    return ("killed", 128 - code) if code > 128 and code - 128 in set(signal.Signals) else ("exited", code)
