"""A Python program that a copy of a running interpreter becomes, as `python program.py` would."""

import atexit
import io
import os
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import NoReturn

from coderv2.sandbox.view import BOX

# What most programs import, loaded once before the copies are made. What is not here takes a millisecond where it is
# wanted; what is here makes every copy dearer, above all what runs code after each fork: `threading` and `random`.
_USUAL = (
    "bisect",
    "cmath",
    "collections.abc",
    "copy",
    "datetime",
    "functools",
    "heapq",
    "itertools",
    "json",
    "math",
    "operator",
    "pickle",
    "re",
    "select",
    "string",
    "sys",
    "time",
    "traceback",
    "typing",
)


@dataclass(frozen=True)
class Script:
    """A file in the box."""

    file: str
    module: types.ModuleType | None = None  # what it defines, where it was loaded beforehand

    @classmethod
    def of(cls, command: Sequence[str]) -> "Script | None":
        """The script that a command runs with this very interpreter and without options; None for another command."""
        plain = len(command) == 2 and command[0] == sys.executable and not command[1].startswith(("-", "/"))
        return cls(command[1]) if plain else None

    def loaded(self) -> "Script":
        """The same with its definitions made: only its `main` is left to call. Not for a stranger's script."""
        module = types.ModuleType("program")
        sys.modules[module.__name__] = module
        self._define(module)
        return Script(self.file, module)

    def run(self) -> NoReturn:
        """Runs it as the main module and ends the process."""
        if self.module:
            _end(_status(self.module.main))
        sys.argv, sys.path[0] = [self.file], self._path.rpartition("/")[0]
        module = types.ModuleType("__main__")
        module.__dict__.update(__builtins__=__builtins__, __annotations__={})
        sys.modules["__main__"] = module
        _end(_status(lambda: self._define(module)))

    def _define(self, module: types.ModuleType) -> None:
        module.__dict__["__file__"] = self._path
        with open(self._path, "rb") as file:  # noqa: PTH123
            code = compile(file.read(), self._path, "exec", dont_inherit=True)
        exec(code, module.__dict__)

    @property
    def _path(self) -> str:
        return f"{BOX}/{self.file}"


def _status(run: Callable[[], object]) -> int:
    """The exit status of a script. What it raises is printed without the frames of this file, as usual."""
    try:
        run()
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    except BaseException as error:
        inner = error.__traceback__
        while inner and inner.tb_frame.f_code.co_filename == __file__:
            inner = inner.tb_next
        traceback.print_exception(error.with_traceback(inner))
        return 1
    return 0


def _end(status: int) -> NoReturn:
    """As the interpreter ends, but for taking itself apart, which takes longer than most programs."""
    if threading := sys.modules.get("threading"):
        threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed by the program, or replaced by something else
            status = status or 120
    os._exit(status)


def warm_up() -> None:
    """Once, before the copies are made: imports, and standard streams for what their numbers will then mean."""
    for name in _USUAL:
        import_module(name)
    streams = {"stdin": _reader(0), "stdout": _writer(1, "strict"), "stderr": _writer(2, "backslashreplace")}
    for name, stream in streams.items():
        vars(sys).update({name: stream, f"__{name}__": stream})


def _reader(fd: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedReader(io.FileIO(fd, "r", closefd=False)), "utf-8")


def _writer(fd: int, errors: str) -> io.TextIOWrapper:
    """Only the errors' is written line by line."""
    raw = io.FileIO(fd, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", errors, line_buffering=fd == 2)
