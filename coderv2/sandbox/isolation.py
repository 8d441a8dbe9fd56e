"""What a warden does to itself at its start, and a forked process before it becomes a stranger's program."""

import ctypes
import os
import resource
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from coderv2.sandbox import landlock, syscalls
from coderv2.sandbox.limits import Limits
from coderv2.sandbox.privilege import USERS, privileged
from coderv2.sandbox.room import (
    NEW_CGROUP,
    NEW_IPC,
    NEW_MOUNTS,
    NEW_NET,
    NEW_PIDS,
    NEW_USER,
    NEW_UTS,
    map_ids,
    mount_proc,
    mount_tmpfs,
    unmount,
)
from coderv2.sandbox.view import BOX, NOBODY, folders

NAMESPACES = NEW_PIDS | NEW_MOUNTS | NEW_NET | NEW_IPC | NEW_UTS | NEW_CGROUP  # of each warden

_DUMPABLE, _NO_NEW_PRIVILEGES, _SECCOMP, _DIE_WITH_PARENT, _DROP_CAPABILITY = 4, 38, 22, 1, 24
_FILTER = 2
_CAPABILITIES = range(64)


def be_first() -> None:
    """For the first process of new namespaces, the warden: its own `/proc`, and nobody may look into it or stop it."""
    syscalls.libc("prctl", _DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    mount_proc()
    syscalls.libc("sethostname", b"box", 3)
    signal.signal(signal.SIGINT, _interrupt)
    syscalls.libc("prctl", _DUMPABLE, 0, 0, 0, 0)
    _drop_capabilities()  # what it holds it keeps, but no program can gain any


def _interrupt(*_: object) -> None:
    """Programs are interrupted as usual; the first process, whose handler theirs is a copy of, is not."""
    if os.getpid() != 1:
        raise KeyboardInterrupt


def make_folders(limits: Limits) -> None:
    """Fresh, empty file systems for the next program, in which this process then stands."""
    for path in folders():
        mount_tmpfs(path, f"mode=777,size={limits.folder_bytes},nr_inodes={limits.folder_files}")
    os.chdir(BOX)


def clear_folders() -> None:
    """And away with all that it wrote."""
    os.chdir("/")
    for path in folders():
        with suppress(OSError):  # some are not there when it was the making that failed
            unmount(path)


@dataclass(frozen=True)
class Walls:
    """What a program's process shuts itself in with, made before the fork: in a copy every touched page costs."""

    resources: tuple[tuple[int, tuple[int, int]], ...]
    user: int | None
    """One that nobody else is, since the kernel counts processes by user, if the warden can be any."""
    rules: int | None
    filter: "_Filter"

    @classmethod
    def made(cls, limits: Limits, filter_program: bytes) -> "Walls":
        """Around the folders of now."""
        resources = [
            (int(getattr(resource, f"RLIMIT_{name.upper()}")), value)
            for name, value in limits.resources().items()
        ]
        user = USERS[int.from_bytes(os.urandom(4), "little") >> 2] if privileged() else None
        return cls(tuple(resources), user, landlock.ruleset(_allowed()), _Filter.of(filter_program))

    def shut(self) -> None:
        """Gives up every right that a program can do without; there is no way back."""
        os.setsid()
        os.umask(0o022)
        for kind, value in self.resources:
            resource.setrlimit(kind, value)
        _be_nobody() if self.user is None else _be_user(self.user)
        syscalls.libc("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        if self.rules is not None:
            landlock.restrict(self.rules)
        syscalls.libc("prctl", _SECCOMP, _FILTER, ctypes.addressof(self.filter), 0, 0)

    def close(self) -> None:
        """In the warden."""
        if self.rules is not None:
            os.close(self.rules)


def _be_user(user: int) -> None:
    """What root becomes."""
    _be_killed_first()
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    _drop_inheritable()


def _be_nobody() -> None:
    """What anybody else becomes, in a namespace of users."""
    user, group = os.getuid(), os.getgid()
    syscalls.libc("prctl", _DUMPABLE, 1, 0, 0, 0)  # else it could not say who it is
    _be_killed_first()
    syscalls.libc("unshare", NEW_USER)
    map_ids(NOBODY, user, NOBODY, group)
    _drop_capabilities()  # of a new namespace one has them all
    _drop_inheritable()


def _be_killed_first() -> None:
    """When the machine's memory is short."""
    Path("/proc/self/oom_score_adj").write_text("1000")


def _drop_inheritable() -> None:
    """And whatever else is left of capabilities."""
    header, nothing = (0x20080522).to_bytes(4, "little") + bytes(4), bytes(24)
    syscalls.libc("capset", header, nothing)


def _drop_capabilities() -> None:
    for capability in _CAPABILITIES:
        try:
            syscalls.libc("prctl", _DROP_CAPABILITY, capability, 0, 0, 0)
        except OSError:  # the kernel knows no more
            return


def _allowed() -> dict[str, int]:
    everything = landlock.everything(landlock.version())
    writable = dict.fromkeys(folders(), everything)
    return {"/": landlock.READ, **writable, "/dev/null": landlock.WRITE, "/dev/full": landlock.WRITE}


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_char_p))

    @classmethod
    def of(cls, program: bytes) -> "_Filter":
        return cls(len(program) // 8, program)
