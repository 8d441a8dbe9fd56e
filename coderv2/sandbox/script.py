"""A Python program that a copy of a running interpreter becomes, as `python program.py` would."""

import atexit
import os
import sys
import threading
import traceback
import types
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import NoReturn

from coderv2.sandbox.view import BOX

# What short programs import: loaded once, before the copies are made.
_USUAL = [
    "abc",
    "array",
    "bisect",
    "calendar",
    "collections.abc",
    "contextlib",
    "copy",
    "cmath",
    "csv",
    "dataclasses",
    "datetime",
    "decimal",
    "enum",
    "fractions",
    "functools",
    "hashlib",
    "heapq",
    "inspect",
    "io",
    "itertools",
    "json",
    "math",
    "numbers",
    "operator",
    "os",
    "pickle",
    "platform",
    "pprint",
    "queue",
    "random",
    "re",
    "shutil",
    "signal",
    "statistics",
    "string",
    "struct",
    "subprocess",
    "sys",
    "tempfile",
    "textwrap",
    "threading",
    "time",
    "typing",
    "unittest",
    "uuid",
    "zlib",
]


@dataclass(frozen=True)
class Script:
    """A file in the box."""

    file: str

    @classmethod
    def of(cls, command: Sequence[str]) -> "Script | None":
        """The script that a command runs with this very interpreter and without options; None for another command."""
        plain = len(command) == 2 and command[0] == sys.executable and not command[1].startswith(("-", "/"))
        return cls(command[1]) if plain else None

    def run(self) -> NoReturn:
        """Runs it as the main module and ends the process."""
        path = f"{BOX}/{self.file}"
        _open_streams()
        sys.argv, sys.path[0] = [self.file], path.rpartition("/")[0]
        module = types.ModuleType("__main__")
        module.__dict__.update(__file__=path, __builtins__=__builtins__, __annotations__={})
        sys.modules["__main__"] = module
        _end(_status(path, module.__dict__))


def _status(path: str, space: dict[str, object]) -> int:
    """The exit status of a script. What it raises is printed without the frames of this file, as usual."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            code = compile(file.read(), path, "exec", dont_inherit=True)
        exec(code, space)
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    except BaseException as error:
        inner = error.__traceback__.tb_next if error.__traceback__ else None
        traceback.print_exception(error.with_traceback(inner))
        return 1
    return 0


def _end(status: int) -> NoReturn:
    """As the interpreter ends, but for taking itself apart, which takes longer than most programs."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed by the program, or replaced by something else
            status = status or 120
    os._exit(status)


def warm_up() -> None:
    """Imports what most programs import."""
    for name in _USUAL:
        import_module(name)


def _open_streams() -> None:
    """Anew, for those that the interpreter has were made for other files."""
    ways = {"stdin": ("r", -1, None), "stdout": ("w", -1, None), "stderr": ("w", 1, "backslashreplace")}
    for fd, (name, (mode, buffering, errors)) in enumerate(ways.items()):
        stream = open(fd, mode, buffering, "utf-8", errors, closefd=False)  # noqa: SIM115
        vars(sys).update({name: stream, f"__{name}__": stream})
