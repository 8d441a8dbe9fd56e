"""Landlock: a process gives up, for itself and all it starts, what it will never need of files, network and signals."""

import os
import struct
from collections.abc import Mapping

from coderv2.sandbox import syscalls

READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read a file, list a folder
WRITE = 1 << 1 | 1 << 14  # write to a file, cut it short
_FILES_BY_VERSION = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_NETWORK = 3  # bind and connect TCP, from version 4
_SCOPES = 3  # abstract sockets and signals to processes outside, from version 6
_PATH_BENEATH = 1


def version() -> int:
    """The kernel's version of Landlock; 0 without it."""
    try:
        return syscalls.call("landlock_create_ruleset", None, 0, 1)
    except OSError:
        return 0


def everything(known: int) -> int:
    """All rights over files that this version can forbid."""
    return sum(bits for since, bits in _FILES_BY_VERSION.items() if known >= since)


def ruleset(allowed: Mapping[str, int]) -> int | None:
    """Only these rights below these paths, and no TCP, as a file descriptor; None where the kernel has no Landlock."""
    known = version()
    if not known:
        return None
    rights = everything(known)
    attributes = struct.pack("=QQQ", rights, _NETWORK if known >= 4 else 0, _SCOPES if known >= 6 else 0)
    size = 8 if known < 4 else 16 if known < 6 else 24
    rules = syscalls.call("landlock_create_ruleset", attributes, size, 0)
    for path, wanted in allowed.items():
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        beneath = struct.pack("=Qi", wanted & rights, fd)
        syscalls.call("landlock_add_rule", rules, _PATH_BENEATH, beneath, 0)
        os.close(fd)
    return rules


def restrict(rules: int) -> None:
    """This process obeys the rules from now on. It must have set no_new_privs."""
    syscalls.call("landlock_restrict_self", rules, 0)
