"""What a freshly forked process does to itself before it becomes a stranger's program."""

import ctypes
import os
import resource
import secrets

from coderv2.sandbox import landlock, syscalls
from coderv2.sandbox.limits import Limits
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
)
from coderv2.sandbox.view import BOX, NOBODY, folders

NAMESPACES = NEW_PIDS | NEW_MOUNTS | NEW_NET | NEW_IPC | NEW_UTS | NEW_CGROUP  # of each program

_DUMPABLE, _NO_NEW_PRIVILEGES, _SECCOMP, _DIE_WITH_PARENT, _DROP_CAPABILITY = 4, 38, 22, 1, 24
_FILTER = 2
_CAPABILITIES = range(64)
_KILL = 9


def be_first(limits: Limits) -> None:
    """For the first process in new namespaces: fresh writable folders, its own `/proc`."""
    syscalls.libc("prctl", _DIE_WITH_PARENT, _KILL, 0, 0, 0)
    for path in folders():
        mount_tmpfs(path, f"mode=777,size={limits.folder_bytes}")
    mount_proc()
    syscalls.libc("sethostname", b"box", 3)
    os.chdir(BOX)


def be_secret() -> None:
    """No other process may look into this one any more."""
    syscalls.libc("prctl", _DUMPABLE, 0, 0, 0, 0)


def be_nobody(limits: Limits, filter_program: bytes) -> None:
    """Gives up every right that a program can do without; there is no way back."""
    os.setsid()
    os.umask(0o022)
    for name, value in limits.resources().items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (value, value))
    _drop_user()
    syscalls.libc("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    landlock.restrict(_allowed())
    _filter(filter_program)


def _drop_user() -> None:
    """Root becomes a user that nobody else is (the kernel counts processes by user), others nobody in a namespace."""
    if os.getuid() == 0:
        _drop_capabilities()
        someone = (1 << 30) + secrets.randbelow(1 << 30)
        os.setgroups([])
        os.setresgid(someone, someone, someone)
        os.setresuid(someone, someone, someone)
    else:
        user, group = os.getuid(), os.getgid()
        syscalls.libc("unshare", NEW_USER)
        map_ids(NOBODY, user, NOBODY, group)
        _drop_capabilities()
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


def _filter(program: bytes) -> None:
    packed = _Filter(len(program) // 8, program)
    syscalls.libc("prctl", _SECCOMP, _FILTER, ctypes.addressof(packed), 0, 0)
