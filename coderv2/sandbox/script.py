"""A Python program that a copy of a running interpreter becomes, as `python program.py` would."""

import atexit
import builtins
import gc
import io
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, NoReturn

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

_ERRORS = "surrogateescape"  # what Python does to bytes that are no text, in the locale of `view.environment`
_MOST_CALLS = (1 << 31) - 1


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
        module.__dict__.update(__builtins__=builtins, __annotations__={})
        sys.modules["__main__"] = module
        _start_counting_calls()
        status = _status(partial(self._define, module))
        del module
        _end(status, _take_apart)

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
        _tell(error.with_traceback(inner))
        return 1
    return 0


def _tell(error: BaseException) -> None:
    """As the program would have it told."""
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except BaseException as another:
        another.__context__ = None
        for title, each in (("Error in sys.excepthook", another), ("\nOriginal exception was", error)):
            print(f"{title}:", file=sys.stderr)
            sys.__excepthook__(type(each), each, each.__traceback__)


def _start_counting_calls() -> None:
    """A program may nest its calls as deep as if it had been started: what called it does not count."""
    frame = sys._getframe(1)
    depth = 2 if sys.version_info < (3, 12) else 0  # two calls of `exec`, ours and `-m`'s
    while frame := frame.f_back:  # type: ignore[assignment]
        depth += 1
    depth += 3  # `run`, `_status` and `_define`
    set_limit, get_limit = sys.setrecursionlimit, sys.getrecursionlimit

    def setrecursionlimit(limit: int, /) -> None:
        set_limit(min(limit + depth, _MOST_CALLS) if limit > 0 else limit)

    sys.setrecursionlimit, sys.getrecursionlimit = setrecursionlimit, lambda: get_limit() - depth
    setrecursionlimit(get_limit())


def _end(status: int, last: Callable[[], None] | None = None) -> NoReturn:
    """As the interpreter ends, but for taking all of itself apart, which takes longer than most programs."""
    if threading := sys.modules.get("threading"):
        threading._shutdown()
    atexit._run_exitfuncs()
    flushed = _flushed()
    if (
        last and len(sys._current_frames()) == 1
    ):  # else daemons still run, which the interpreter would stop first
        last()
        flushed &= _flushed()
    os._exit(status if flushed else 120)


def _take_apart() -> None:
    """What a program leaves in its module may have something left to write, or to say."""
    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__
    gc.collect()  # puts what holds before what is held, in which order it will then be closed
    sys.modules.pop("__main__", None)
    gc.collect()


def _flushed() -> bool:
    """Both standard streams, or whatever the program put in their place."""
    return sum(map(_is_flushed, (sys.stdout, sys.stderr))) == 2


def _is_flushed(stream: Any) -> bool:
    try:
        if stream is not None and not getattr(stream, "closed", False):
            stream.flush()
    except BaseException as error:
        with suppress(BaseException):
            print(f"Exception ignored in: {stream!r}\n{type(error).__name__}: {error}", file=sys.stderr)
        return False
    return True


def warm_up() -> None:
    """Once, before the copies are made: imports, and standard streams for what their numbers will then mean."""
    for name in _USUAL:
        import_module(name)
    streams = {"stdin": _reader(0), "stdout": _writer(1, _ERRORS), "stderr": _writer(2, "backslashreplace")}
    for name, stream in streams.items():
        vars(sys).update({name: stream, f"__{name}__": stream})


def _reader(fd: int) -> io.TextIOWrapper:
    buffer = io.BufferedReader(io.FileIO(fd, "r", closefd=False))
    return io.TextIOWrapper(buffer, "utf-8", _ERRORS, "\n")


def _writer(fd: int, errors: str) -> io.TextIOWrapper:
    """Only the errors' is written line by line."""
    with _pipe_as(fd):
        buffer = io.BufferedWriter(io.FileIO(fd, "w", closefd=False))
        return io.TextIOWrapper(buffer, "utf-8", errors, "\n", line_buffering=fd == 2)


@contextmanager
def _pipe_as(fd: int) -> Iterator[None]:
    """For a stream remembers whether what it was made for could seek."""
    kept, pipe = os.dup(fd), os.pipe()
    os.dup2(pipe[1], fd)
    try:
        yield
    finally:
        os.dup2(kept, fd)
        for other in (kept, *pipe):
            os.close(other)
