"""System calls that Python has no function for, and their numbers."""

import ctypes
import os
import signal
import sys

from coderv2.errors import Unsupported

ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_* of machines whose numbers are known

# on x86-64, on AArch64; None where the machine lacks it
_NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
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
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "landlock_add_rule": (445, 445),
    "landlock_create_ruleset": (444, 444),
    "landlock_restrict_self": (446, 446),
    "lookup_dcookie": (212, 18),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "prlimit64": (302, 261),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "semget": (64, 190),
    "setns": (308, 268),
    "setpriority": (141, 140),
    "setsockopt": (54, 208),
    "settimeofday": (164, 170),
    "shmget": (29, 194),
    "socket": (41, 198),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
_libc = ctypes.CDLL(None, use_errno=True)


def arch() -> int:
    """The kernel's word for this machine. Raises Unsupported for one whose numbers are not known."""
    machine = os.uname().machine
    if machine not in ARCHES or sys.byteorder != "little":
        raise Unsupported(
            f"the sandbox does not know the system calls of {machine}, only of {', '.join(ARCHES)}"
        )
    return ARCHES[machine]


def number(name: str) -> int | None:
    """The number of a system call on this machine, None where it has no such call."""
    return _NUMBERS[name][list(ARCHES.values()).index(arch())]


def call(name: str, *arguments: int | bytes | None) -> int:
    """A system call by its name. Raises OSError."""
    found = number(name)
    assert found is not None, name
    return _checked(_libc.syscall(ctypes.c_long(found), *map(_word, arguments)), name)


def libc(name: str, *arguments: int | bytes | None) -> int:
    """A function of the C library that returns -1 and sets errno where it fails. Raises OSError."""
    return _checked(getattr(_libc, name)(*map(_word, arguments)), name)


def fork(flags: int) -> int:
    """`os.fork` into new namespaces."""
    ctypes.pythonapi.PyOS_BeforeFork()
    nothing = [ctypes.c_long()] * 4
    pid = _libc.syscall(ctypes.c_long(number("clone") or 0), ctypes.c_long(flags | signal.SIGCHLD), *nothing)
    error = ctypes.get_errno()
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid == -1:
        raise OSError(error, f"clone: {os.strerror(error)}")
    return int(pid)


def _word(argument: int | bytes | None) -> "ctypes.c_long | ctypes.c_char_p":
    return ctypes.c_long(argument) if isinstance(argument, int) else ctypes.c_char_p(argument)


def _checked(result: int, name: str) -> int:
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result
