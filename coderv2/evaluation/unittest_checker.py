"""Runs inside the sandbox, as a program of its own: judges files by their unittest tests, which must all have passed.

Standard input brings the files (JSON, after their length), then a secret word. Tests and solution run in a child
process that was forked before the word was read, and that cannot look into its parent; it says which tests passed, and
the parent wants every test that the files define. A solution that replaces any function or class that was there before
it, or the code of one, is found out after each test. One that searches its process for frames, traces it, or leaves a
thread that waits for the end, could still cheat.
"""

import ast
import ctypes
import io
import json
import os
import re
import sys
import unittest
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import CellType, FunctionType, ModuleType
from typing import Any, NoReturn

PATTERN = "*_test.py"
LINES, LETTERS = 50, 10_000  # of what the tests said
_NOT_DUMPABLE = 4
_ENDED = "The tests did not come to their end."
_CHANGED = "The solution changed unittest, or its tests."


# --- the candidate's process --------------------------------------------------------------------------------------


def start(files: Mapping[str, str], seal: bytes) -> int:
    """Forks the process that runs the tests; returns where its report, under the seal, can be read."""
    report, pipe = os.pipe()
    if os.fork() == 0:
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(nothing, fd)
        _test(files, seal, pipe)
    os.close(pipe)
    return report


def _test(files: Mapping[str, str], seal: bytes, pipe: int) -> NoReturn:
    try:
        for path, text in files.items():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(text, "utf-8", newline="")
        _write(pipe, seal + json.dumps(tested()).encode())
    finally:
        os._exit(0)


def tested() -> dict[str, Any]:
    """Runs the tests in this folder: which passed, what was said, and whether all that judges stayed as it was."""
    passed: list[str] = []
    said, whole = io.StringIO(), [True]
    machinery = unchanged(_machinery())

    class Result(unittest.TextTestResult):
        def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
            super().addSuccess(test)
            passed.append(test.id())

        def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802
            super().stopTest(test)
            whole[0] = whole[0] and machinery() and tests()

    suite = unittest.defaultTestLoader.discover(".", pattern=PATTERN)
    tests = unchanged({type(case) for case in _cases(suite)})
    unittest.TextTestRunner(stream=said, resultclass=Result).run(suite)  # type: ignore[arg-type]
    return {"passed": passed, "said": shown(said.getvalue()), "whole": whole[0] and machinery()}


def unchanged(owners: Iterable[Any]) -> Callable[[], bool]:
    """A check that these classes and modules hold the functions and classes that they hold now, with the same code.

    It uses nothing that a solution could replace.
    """
    every, get = all, getattr
    held = [(vars(owner), name, value) for owner in owners for name, value in _held(owner).items()]
    parts = [part for function in _functions(value for *_, value in held) for part in _parts(function)]

    def check() -> bool:
        same = every(space.get(name) is value for space, name, value in held)
        return same and every(get(owner, name) is value for owner, name, value in parts)

    return check


def _machinery() -> Iterator[Any]:
    """All modules that are there, and their classes: what judges calls many of them."""
    for module in [module for module in sys.modules.values() if isinstance(module, ModuleType)]:
        yield module
        yield from {value for value in vars(module).values() if isinstance(value, type)}


def _held(owner: Any) -> dict[str, Any]:
    """Modules hold data too, which may change."""
    is_module = isinstance(owner, ModuleType)
    return {name: value for name, value in vars(owner).items() if not is_module or callable(value)}


def _functions(values: Iterable[Any]) -> Iterable[FunctionType]:
    """Those among the values, and those within them."""
    found: dict[int, FunctionType] = {}
    waiting = list(values)
    while waiting:
        match waiting.pop():
            case FunctionType() as function if id(function) not in found:
                found[id(function)] = function
                waiting += [value for *_, value in _parts(function)]
            case staticmethod() | classmethod() as method:
                waiting.append(method.__func__)
            case property() as attribute:
                waiting += [attribute.fget, attribute.fset, attribute.fdel]
    return found.values()


def _parts(function: FunctionType) -> Iterator[tuple[Any, str, Any]]:
    """All that decides what a function does; its cells hold data too, which may change."""
    for name in ("__code__", "__defaults__", "__kwdefaults__"):
        yield function, name, getattr(function, name)
    for cell in function.__closure__ or ():
        if cell != CellType() and callable(cell.cell_contents):
            yield cell, "cell_contents", cell.cell_contents


def _cases(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for part in suite:
        if isinstance(part, unittest.TestSuite):
            yield from _cases(part)
        else:
            yield part


def shown(said: str) -> str:
    """The first lines, without folders and times."""
    text = re.sub(r'File ".*/', 'File "', re.sub(r"in [0-9.]+s", "", said))
    return "\n".join(text.splitlines()[:LINES])[:LETTERS]


def _write(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


# --- the judge's process ------------------------------------------------------------------------------------------


def verdict(files: Mapping[str, str], seal: bytes, report: bytes) -> tuple[str, str]:
    """A word for it, as the judge outside knows them, and what the tests said."""
    if not report.startswith(seal):
        return "error", _ENDED
    found = json.loads(report[len(seal) :])
    if not found["whole"]:
        return "wrong", _CHANGED
    wanted = {test for path, text in files.items() for test in defined(path, text)}
    return "passed" if wanted and wanted <= set(found["passed"]) else "wrong", found["said"]


def defined(path: str, text: str) -> Iterator[str]:
    """The tests of a file, by the names that unittest gives them; those that it skips itself are none."""
    if "/" in path or not path.endswith(PATTERN[1:]):
        return
    for case in ast.parse(text).body:
        if isinstance(case, ast.ClassDef) and _mentions("TestCase", case.bases):
            for test in case.body:
                if isinstance(test, ast.FunctionDef) and _is_asked(test):
                    yield f"{path.removesuffix('.py')}.{case.name}.{test.name}"


def _is_asked(test: ast.FunctionDef) -> bool:
    return test.name.startswith("test") and not _mentions("skip", test.decorator_list)


def _mentions(word: str, nodes: Iterable[ast.expr]) -> bool:
    return any(word in ast.unparse(node) for node in nodes)


def main() -> None:
    """The verdict, behind the word that proves who gives it."""
    files = json.loads(_read(0, int.from_bytes(_read(0, 8), "little")))
    ctypes.CDLL(None).prctl(_NOT_DUMPABLE, 0, 0, 0, 0)  # nobody may look into this process
    seal = os.urandom(16)
    report = start(files, seal)
    word = os.read(0, 1 << 10).strip().decode()
    reason, said = verdict(files, seal, _read(report, sys.maxsize))
    _write(1, f"{word} {reason} {said}\n".encode(errors="replace"))


def _read(fd: int, size: int) -> bytes:
    """Without a buffer: what comes after it must not be in memory yet."""
    data = bytearray()
    while len(data) < size and (chunk := os.read(fd, min(size - len(data), 1 << 20))):
        data += chunk
    return bytes(data)


if __name__ == "__main__":
    main()
