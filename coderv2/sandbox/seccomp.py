"""The filter of system calls, as a classic BPF program that `prctl(PR_SET_SECCOMP)` and bubblewrap both take.

What ordinary programs never need and what reaches beyond the box fails with EPERM; what has a fallback in every C
library or runtime (`clone3`, `memfd_create`) with ENOSYS. Sockets are local or internet ones,
not those of the machine that hosts this one, nor the kernel's own. Nothing changes what the first process may take,
which starts all programs and, where the caller is not root, is the same user as they.
"""

import struct
from collections.abc import Iterator

from coderv2.sandbox.syscalls import arch, number

_FORBIDDEN = (
    "acct",
    "add_key",
    "adjtimex",
    "bpf",
    "chroot",
    "clock_settime",
    "delete_module",
    "fanotify_init",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "mount",
    "mount_setattr",
    "move_mount",
    "move_pages",
    "mq_open",
    "msgget",
    "name_to_handle_at",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "personality",
    "pidfd_getfd",
    "pivot_root",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "quotactl",
    "reboot",
    "request_key",
    "semget",
    "setns",
    "settimeofday",
    "shmget",
    "swapoff",
    "swapon",
    "syslog",
    "umount2",
    "unshare",
    "userfaultfd",
    "vhangup",
)
_ABSENT = ("clone3", "memfd_create", "memfd_secret")
_OF_A_PROCESS = (
    ("prlimit64", 0),
    ("sched_setaffinity", 0),
    ("sched_setattr", 0),
    ("sched_setparam", 0),
    ("sched_setscheduler", 0),
    ("setpriority", 1),
    ("ioprio_set", 1),
)
"""Calls that change a process, and which of their arguments names it."""
_OF_A_USER = {"setpriority": 2, "ioprio_set": 3}
"""What their first argument is when they change all processes of a user."""

_NEW_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag
_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
_SOL_SOCKET, _SO_SNDBUF = 1, 7
_X32 = 0x40000000  # x86-64's second set of calls

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
# Offsets in struct seccomp_data; the first argument's low half, the next.
_NUMBER, _ARCH, _FIRST, _WORD = 0, 4, 16, 8
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97

Step = tuple[int, int, int, int]  # operation, jump if true, jump if false, operand


def program() -> bytes:
    """The filter for this machine, an array of struct sock_filter."""
    return b"".join(struct.pack("<HBBI", *step) for step in _steps())


def _steps() -> Iterator[Step]:
    yield from [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, arch()), (_RETURN, 0, 0, _KILL)]
    yield from [(_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _FAIL | _ENOSYS)]
    for names, error in ((_FORBIDDEN, _EPERM), (_ABSENT, _ENOSYS)):
        for call in filter(None, map(number, names)):
            yield from [(_EQUAL, 0, 1, call), (_RETURN, 0, 0, _FAIL | error)]
    for name, argument in _OF_A_PROCESS:
        yield from _of_a_process(name, argument)
    yield from _set_option(number("setsockopt") or 0)
    yield from _clone(number("clone") or 0)
    yield from _socket(number("socket") or 0)
    yield (_RETURN, 0, 0, _ALLOW)


def _of_a_process(name: str, argument: int) -> list[Step]:
    refused = [(_LOAD, 0, 0, _FIRST + _WORD * argument), (_EQUAL, 0, 1, 1), (_RETURN, 0, 0, _FAIL | _EPERM)]
    if name in _OF_A_USER:
        every = [(_LOAD, 0, 0, _FIRST), (_EQUAL, 0, 1, _OF_A_USER[name]), (_RETURN, 0, 0, _FAIL | _EPERM)]
        refused += every
    refused.append((_RETURN, 0, 0, _ALLOW))
    return [(_EQUAL, 0, len(refused), number(name) or 0), *refused]


def _set_option(call: int) -> list[Step]:
    """A longer queue of a socket is granted by word only: `memory` counts sockets, it does not see their queues."""
    return [
        (_EQUAL, 0, 6, call),
        (_LOAD, 0, 0, _FIRST + _WORD),
        (_EQUAL, 0, 2, _SOL_SOCKET),
        (_LOAD, 0, 0, _FIRST + 2 * _WORD),
        (_EQUAL, 1, 0, _SO_SNDBUF),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FAIL | 0),
    ]


def _clone(call: int) -> list[Step]:
    return [
        (_EQUAL, 0, 4, call),
        (_LOAD, 0, 0, _FIRST),
        (_ANY_BIT, 0, 1, _NEW_NAMESPACES),
        (_RETURN, 0, 0, _FAIL | _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]


def _socket(call: int) -> list[Step]:
    known = [(_EQUAL, len(_FAMILIES) - i, 0, family) for i, family in enumerate(_FAMILIES)]
    return [
        (_EQUAL, 0, len(_FAMILIES) + 2, call),
        (_LOAD, 0, 0, _FIRST),
        *known,
        (_RETURN, 0, 0, _FAIL | _EAFNOSUPPORT),
    ]
