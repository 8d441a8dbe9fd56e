"""Defects4J (Just et al. 2014): a buggy Java method, its failing tests, and a fix that must pass all tests.

The 238 single-method bugs of the paper are not published. Ours are the bugs whose patch is one hunk within one
method of one
file; the report names how many.
"""

import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from coderv2.errors import ServiceError, Unsupported
from coderv2.evaluation import java_methods, processes
from coderv2.evaluation.asking import Ask, Chat, Decoding, Exchange, Place, Problem, Style
from coderv2.evaluation.data import Data, Source
from coderv2.evaluation.execution import fenced
from coderv2.evaluation.task import Attempt, Score, Task, Tools
from coderv2.text import snippets

_SOURCE = Source(
    "defects4j/defects4j-metadata.tar.gz",
    how="framework/projects of github.com/rjust/defects4j (patches, trigger_tests), as an archive or a folder",
)
_OWN_RIGHTS = (
    "the user's leave: the framework runs what the model wrote with your own rights, outside of the sandbox "
    "(--unprotected, on a machine that nothing depends on)"
)
_VARIABLES = ("PATH", "HOME", "LANG", "TZ", "JAVA_HOME", "PERL5LIB", "D4J_HOME")  # no keys among them
_TRIGGER_SECONDS, _ALL_SECONDS = 300.0, 900.0
_HUNK = re.compile(r"(?m)^@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@")
_FILE = re.compile(r"(?m)^\+\+\+ b?/?(\S+)")
_INSTRUCTION = (
    "This Java method has a bug:\n{method}\n\nThese tests fail:\n{tests}\n\nAnswer with the full, fixed "
    "method in one code "
    "block."
)


@dataclass(frozen=True, kw_only=True)
class Defects4j(Task):
    """A fix is plausible when the tests that showed the bug pass, and then all tests do."""

    metric: str = "plausible"
    unprotected: bool = False
    """Whether programs may run with the user's own rights: no sandbox here holds the framework."""

    def problems(self, data: Data) -> Iterable[Problem]:
        """Bugs with one hunk in one file."""
        tests = {
            _bug(name): content.decode()
            for name, content in data.members(_SOURCE, "").items()
            if "trigger_tests/" in name
        }
        for name, content in data.members(_SOURCE, ".src.patch").items():
            patch, bug = content.decode(errors="replace"), _bug(name)
            hunks, files = _HUNK.findall(patch), _FILE.findall(patch)
            if len(hunks) == len(files) == 1:
                fields = {
                    "file": files[0],
                    "line": _changed_line(patch),
                    "patch": patch,
                    "tests": tests.get(bug, ""),
                }
                yield Problem(bug, fields, bug.partition("-")[0])

    def prompt(self, problem: Problem, style: Style) -> Ask:
        """Shown where the sources cannot be had; `attempt` asks with the method."""
        return Chat.of(_INSTRUCTION.format(method="(checked out when asked)", tests=problem.row["tests"]))

    async def attempt(self, place: Place, style: Style, tools: Tools) -> Attempt:
        """Checks the buggy version out, asks, puts the answer in, compiles, tests. Raises Unsupported without leave."""
        if not self.unprotected:
            raise Unsupported(f"Defects4J needs {_OWN_RIGHTS}")
        with tempfile.TemporaryDirectory(prefix="coderv2-defects4j-") as scratch:
            checkout = await Checkout.of(place.problem, Path(scratch) / "buggy", "b")
            method = checkout.method()
            ask = Chat.of(
                _INSTRUCTION.format(
                    method=fenced(method.text.replace("\r\n", "\n"), "java"), tests=place.problem.row["tests"]
                ),
                Decoding(2048),
            )
            exchange = Exchange(ask, await tools.ask(ask, place))
            fixed = snippets.block(exchange.reply.text, "java")
            if fixed is None:
                return Attempt(exchange, Score(0.0, "no code"))
            checkout.replace(method, fixed)
            return Attempt(exchange, await checkout.judged(fixed))

    def lacks(self) -> str | None:
        """The framework, or leave to run it."""
        absent = processes.absent(
            ("defects4j",), "Defects4J 3 with its project histories (init.sh), Java 11, Perl, Subversion"
        )
        return absent or (None if self.unprotected else _OWN_RIGHTS)

    def texts(self, problem: Problem) -> Iterable[str]:
        """The lines around the bug, with it and with its fix."""
        hunk = problem.row["patch"].partition("\n@@")[2].splitlines()[1:]
        return ("\n".join(line[1:] for line in hunk if line[:1] != other) for other in "+-")

    def canonical(self, problem: Problem, style: Style) -> str:
        """The fix is in the fixed version's sources, which have to be checked out: see `Checkout`."""
        raise Unsupported("its data brings patches and no fixed methods, so there are no canonical answers")


@dataclass(frozen=True)
class Checkout:
    """One version of one bug's project on disk."""

    folder: Path
    row: Any

    @classmethod
    async def of(cls, problem: Problem, folder: Path, version: str) -> "Checkout":
        """`version` is b, buggy, or f, fixed. Raises ServiceError where the framework fails."""
        project, _, number = problem.id.partition("-")
        ended = await _defects4j(
            "checkout", "-p", project, "-v", number + version, "-w", str(folder), folder=folder.parent
        )
        if ended.code != 0:
            raise ServiceError(
                f"defects4j checkout of {problem.id} ended with {ended.code}: {ended.output[-500:]}"
            )
        return cls(folder, problem.row)

    def method(self) -> java_methods.Method:
        """The method around the changed line."""
        return java_methods.around(self._source()[0], self.row["line"])

    def replace(self, method: java_methods.Method, fixed: str) -> None:
        """Puts a method in the place of another; all else stays, byte by byte."""
        text, encoding = self._source()
        text = text[: method.start] + fixed.strip() + text[method.end :]
        # What the encoding lacks is written as Java's own escapes.
        self._file.write_bytes(text.encode(encoding, "backslashreplace"))

    async def judged(self, fixed: str) -> Score:
        """Compiles, runs what showed the bug, then everything."""
        compiled = await _defects4j("compile", folder=self.folder)
        if compiled.code != 0:
            return Score(0.0, "compile", compiled.output[-2000:], program=fixed)
        for test in re.findall(r"(?m)^--- (\S+)", self.row["tests"]):
            if (failure := await self._failure("-t", test, seconds=_TRIGGER_SECONDS)) is not None:
                return Score(0.0, "wrong", failure, program=fixed)
        failure = await self._failure(seconds=_ALL_SECONDS)
        return Score(
            float(failure is None),
            "passed" if failure is None else "breaks other tests",
            failure or "",
            program=fixed,
        )

    async def _failure(self, *options: str, seconds: float) -> str | None:
        ended = await _defects4j("test", *options, folder=self.folder, seconds=seconds)
        return None if ended.code == 0 and "Failing tests: 0" in ended.output else ended.output[-2000:]

    def _source(self) -> tuple[str, str]:
        """The file's text and its encoding: UTF-8, or else ISO-8859-1, as which any bytes can be read."""
        content = self._file.read_bytes()
        try:
            return content.decode("utf-8"), "utf-8"
        except UnicodeDecodeError:
            return content.decode("latin-1"), "latin-1"

    @property
    def _file(self) -> Path:
        return self.folder / str(self.row["file"])


async def _defects4j(*arguments: str, folder: Path, seconds: float = _TRIGGER_SECONDS) -> processes.Ended:
    environment = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    return await processes.call(
        "defects4j", *arguments, folder=folder, seconds=seconds, environment=environment
    )


def _bug(name: str) -> str:
    path = PurePosixPath(name)
    return f"{path.parts[-3]}-{path.name.partition('.')[0]}"


def _changed_line(patch: str) -> int:
    """The first line of the buggy file that the patch touches; it runs from fixed to buggy."""
    match = _HUNK.search(patch)
    assert match is not None
    line = int(match.group(2))
    for text in patch[match.end() :].split("\n")[1:]:
        if text.startswith(("+", "-")):
            break
        line += 1
    return line


TASKS = (
    Defects4j(
        name="defects4j", title="Defects4J", sources=(_SOURCE,), styles=("chat",),
        note="Bugs whose patch is one hunk in one file; the paper's list of 238 is not public.",
    ),
)  # fmt: skip
