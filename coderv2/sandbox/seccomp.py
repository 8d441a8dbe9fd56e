"""The filter of system calls, as a classic BPF program that `prctl(PR_SET_SECCOMP)` and bubblewrap both take.

What ordinary programs never need and what reaches beyond the box fails with EPERM; what has a fallback in every C
library or runtime (`clone3`, `memfd_create`) with ENOSYS. Sockets are local or internet ones,
not those of the machine that hosts this one, nor the kernel's own.
"""

import platform
import struct
import sys
from collections.abc import Iterator

from coderv2.errors import Unsupported

# name: number on x86-64, on AArch64; None where the machine lacks it
_FORBIDDEN: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "semget": (64, 190),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "shmget": (29, 194),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
_ABSENT: dict[str, tuple[int, int]] = {
    "clone3": (435, 435),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
}
_CLONE = (56, 220)
_SOCKET = (41, 198)
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the tables, AUDIT_ARCH

_NEW_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag
_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
_X32 = 0x40000000  # x86-64's second set of calls

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _FIRST = 0, 4, 16  # offsets in struct seccomp_data; the first argument's low half
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97

Step = tuple[int, int, int, int]  # operation, jump if true, jump if false, operand


def program() -> bytes:
    """The filter for this machine, an array of struct sock_filter."""
    machine = platform.machine()
    if machine not in _MACHINES or sys.byteorder != "little":
        raise Unsupported(f"no system call filter for {machine}: the sandbox knows {', '.join(_MACHINES)}")
    return b"".join(struct.pack("<HBBI", *step) for step in _steps(*_MACHINES[machine]))


def _steps(column: int, arch: int) -> Iterator[Step]:
    yield from [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, arch), (_RETURN, 0, 0, _KILL)]
    yield from [(_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _FAIL | _ENOSYS)]
    for table, error in ((_FORBIDDEN, _EPERM), (_ABSENT, _ENOSYS)):
        for numbers in table.values():
            if (number := numbers[column]) is not None:
                yield from [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _FAIL | error)]
    yield from _clone(_CLONE[column])
    yield from _socket(_SOCKET[column])
    yield (_RETURN, 0, 0, _ALLOW)


def _clone(number: int) -> list[Step]:
    return [
        (_EQUAL, 0, 4, number),
        (_LOAD, 0, 0, _FIRST),
        (_ANY_BIT, 0, 1, _NEW_NAMESPACES),
        (_RETURN, 0, 0, _FAIL | _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]


def _socket(number: int) -> list[Step]:
    known = [(_EQUAL, len(_FAMILIES) - i, 0, family) for i, family in enumerate(_FAMILIES)]
    return [
        (_EQUAL, 0, len(_FAMILIES) + 2, number),
        (_LOAD, 0, 0, _FIRST),
        *known,
        (_RETURN, 0, 0, _FAIL | _EAFNOSUPPORT),
    ]
