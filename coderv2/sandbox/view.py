"""What a program sees of the machine, the same in every driver."""

import os
import sys
from functools import cache
from pathlib import Path

BOX = "/box"  # its folder, where its files lie and it may write
PATH = "/usr/local/bin:/usr/bin:/bin"
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
STREAMS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
}
NOBODY = 65534

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SETTINGS = (
    "alternatives",
    "ld.so.cache",
    "localtime",
    "java*",
    "ldc2.conf",
    "mono*",
    "php",
    "R",
    "racket",
    "dotnet",
    "julia",
)
# An environment may be somebody's home too.
_OF_PYTHON = ("bin", "include", "lib", "lib64", "pyvenv.cfg", "share")


@cache
def shown() -> tuple[Path, ...]:
    """System programs, libraries and their settings, and this Python: what is shown, read-only, under its own name."""
    settings = [path for pattern in _SETTINGS for path in sorted(Path("/etc").glob(pattern))]
    prefixes = {Path(sys.prefix), Path(sys.base_prefix), Path(os.path.realpath(sys.executable)).parent.parent}
    python = [prefix / part for prefix in sorted(prefixes) for part in _OF_PYTHON]
    paths = [path for path in [*map(Path, _SYSTEM), *settings, *python] if path.exists()]
    return tuple(path for path in paths if not any(other in path.parents for other in paths))


@cache
def folders() -> tuple[str, ...]:
    """What a program may write to, fresh and empty each time; not `/tmp` where something shown lies in it."""
    taken = any(Path("/tmp") in path.parents for path in shown())
    return (BOX, "/dev/shm") if taken else (BOX, "/dev/shm", "/tmp")


def environment() -> dict[str, str]:
    """Every variable that a program finds."""
    return {
        "PATH": PATH,
        "HOME": BOX,
        "TMPDIR": "/tmp" if "/tmp" in folders() else BOX,
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",  # the same order of a set in every run
        "MONO_TRACE_LISTENER": "Console.Error",  # where .NET tells of failed assertions
    }
