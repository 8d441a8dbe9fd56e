"""The read-only room that a warden shuts itself into: what `view` shows, and nothing else of the machine's files."""

import os
import struct
from pathlib import Path

from coderv2.sandbox import syscalls
from coderv2.sandbox.privilege import privileged
from coderv2.sandbox.view import DEVICES, STREAMS, folders, shown

NEW_MOUNTS, NEW_CGROUP, NEW_UTS, NEW_IPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEW_USER, NEW_PIDS, NEW_NET = 0x10000000, 0x20000000, 0x40000000
_READ_ONLY, _NO_SETUID, _NO_DEVICES = 1, 2, 4  # MOUNT_ATTR_*, and MS_* of the same worth
_BIND, _RECURSIVE, _PRIVATE = 0x1000, 0x4000, 1 << 18
_DETACH = 2
_HERE, _BELOW = -100, 0x8000  # AT_FDCWD, AT_RECURSIVE


def enter(empty: str) -> None:
    """Makes `empty`, a folder, the root of this process's files. Only a process that runs one thread may enter."""
    user, group = os.getuid(), os.getgid()
    visible = shown()
    syscalls.libc("unshare", NEW_MOUNTS | (0 if privileged() else NEW_USER))
    if not privileged():
        map_ids(user, user, group, group)
    syscalls.libc("mount", None, b"/", None, _RECURSIVE | _PRIVATE, None)
    mount_tmpfs(empty, "mode=755,size=1m")
    os.umask(0)
    for path in visible:
        _show(path, empty)
    _devices(empty)
    _bind("/proc", f"{empty}/proc", attributes=0)
    for folder in [*folders(), "/old"]:
        Path(empty + folder).mkdir(parents=True, exist_ok=True)
    syscalls.call("pivot_root", os.fsencode(empty), os.fsencode(f"{empty}/old"))
    os.chdir("/")
    unmount("/old")
    Path("/old").rmdir()
    _restrict("/", _READ_ONLY, below=False)


def mount_tmpfs(path: str, options: str) -> None:
    """An empty file system in memory."""
    flags = _NO_SETUID | _NO_DEVICES
    syscalls.libc("mount", b"tmpfs", os.fsencode(path), b"tmpfs", flags, options.encode())


def unmount(path: str) -> None:
    """Takes away what was mounted there last."""
    syscalls.libc("umount2", os.fsencode(path), _DETACH)


def mount_proc() -> None:
    """The processes of this process's namespace, over whatever `/proc` shows."""
    syscalls.libc("mount", b"proc", b"/proc", b"proc", _NO_SETUID | _NO_DEVICES | 8, None)


def map_ids(user: int, outer_user: int, group: int, outer_group: int) -> None:
    """Says who one is in a user namespace that one has just made."""
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {outer_user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {outer_group} 1")


def _show(path: Path, empty: str) -> None:
    _bind(str(path), f"{empty}{path}", _READ_ONLY | _NO_SETUID | _NO_DEVICES)


def _devices(empty: str) -> None:
    for device in DEVICES:
        _bind(device, empty + device, attributes=0)
    for name, target in STREAMS.items():
        Path(empty + name).symlink_to(target)


def _bind(source: str, target: str, attributes: int) -> None:
    place = Path(target)
    place.parent.mkdir(parents=True, exist_ok=True)
    if Path(source).is_dir():
        place.mkdir(exist_ok=True)
    else:
        place.touch()
    syscalls.libc("mount", os.fsencode(source), os.fsencode(target), None, _BIND | _RECURSIVE, None)
    if attributes:
        _restrict(target, attributes, below=True)


def _restrict(path: str, attributes: int, *, below: bool) -> None:
    wanted = struct.pack("=QQQQ", attributes, 0, 0, 0)
    syscalls.call("mount_setattr", _HERE, os.fsencode(path), _BELOW if below else 0, wanted, len(wanted))
