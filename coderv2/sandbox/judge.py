"""Judges programs: compiles, runs, compares, many side by side; the verdict says why.

A program with `tests` passes when it ends with status 0 and has printed a secret word that stands after its last test:
a program that exits early, or prints that all is well, has not passed. The word stands in the source, so a program that
reads its own file can still cheat; `evaluation/plus.py` keeps judge and judged in two processes.
"""

import io
import os
import secrets
import tarfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from coderv2.errors import SandboxFailed
from coderv2.sandbox import toolchains
from coderv2.sandbox.languages import language
from coderv2.sandbox.run import DEFAULTS, Limits, Outcome, Sandbox, best_sandbox
from coderv2.sandbox.toolchains import Toolchain

Reason = Literal["passed", "wrong", "error", "compile", "timeout", "memory", "output", "toolchain", "sandbox"]
COMPILING = Limits(seconds=60.0, memory_bytes=2 << 30, output_bytes=64 << 20, file_bytes=64 << 20)
DETAIL = 2000  # characters of the standard error that a verdict keeps, the last ones


@dataclass(frozen=True)
class Case:
    """What a program reads from standard input and must print; lines are compared without the space at their ends."""

    stdin: bytes
    expected: str


@dataclass(frozen=True)
class Program:
    """A program and what it must do: pass `tests` (appended to it), answer every case, or just end with status 0."""

    language: str
    source: str
    tests: str = ""
    cases: tuple[Case, ...] = ()
    stdin: bytes = b""
    files: Mapping[str, str | bytes] = field(default_factory=dict)  # beside it, by relative path
    limits: Limits = DEFAULTS  # of each run; compiling has its own


@dataclass(frozen=True)
class Verdict:
    """`toolchain` and `sandbox` say nothing about the program: it was not run."""

    passed: bool
    reason: Reason
    detail: str
    seconds: float


class Judge:
    """Judges in boxes of one sandbox, `workers` programs at a time (as many as cores)."""

    def __init__(self, sandbox: Sandbox | None = None, *, workers: int | None = None) -> None:
        self.sandbox = sandbox or best_sandbox()
        self.workers = workers or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="judge")

    def judge(self, programs: Iterable[Program]) -> Iterator[Verdict]:
        """Verdicts in the programs' order; programs are taken from the iterable a few ahead of the verdicts."""
        waiting: deque[Future[Verdict]] = deque()
        for program in programs:
            waiting.append(self._pool.submit(self.judge_one, program))
            if len(waiting) > 4 * self.workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def judge_one(self, program: Program) -> Verdict:
        """One verdict. Threads may ask side by side, each for its own."""
        start = time.monotonic()
        try:
            reason, detail = self._judged(program)
        except SandboxFailed as error:
            reason, detail = "sandbox", str(error)
        return Verdict(reason == "passed", reason, detail, time.monotonic() - start)

    def close(self) -> None:
        """Waits for what runs, then ends the sandbox."""
        self._pool.shutdown()
        self.sandbox.close()

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _judged(self, program: Program) -> tuple[Reason, str]:
        toolchain = toolchains.find(program.language)
        if toolchain is None:
            package = language(program.language).package
            return "toolchain", f"{program.language} cannot be run here: install {package}"
        token = secrets.token_hex(16)
        source = program.source
        if program.tests:
            source += "\n" + toolchains.with_proof(program.language, program.tests, token)
        built, trouble = self._built(toolchain, source, program)
        if trouble:
            return trouble
        command = toolchain.run(source, program.limits)
        for case in program.cases or [Case(program.stdin, "")]:
            outcome = self.sandbox.run(command, files=built, stdin=case.stdin, limits=program.limits)
            if trouble := _trouble(outcome, toolchain):
                return trouble
            if program.cases and not same_lines(outcome.stdout.decode(errors="replace"), case.expected):
                return "wrong", f"printed {outcome.stdout[:DETAIL].decode(errors='replace')}"
            if program.tests and token.encode() not in outcome.stdout:
                return "error", "ended before its tests did"
        return "passed", ""

    def _built(
        self, toolchain: Toolchain, source: str, program: Program
    ) -> tuple[Mapping[str, str | bytes], tuple[Reason, str] | None]:
        files = {**program.files, toolchain.language.file: source}
        command = toolchain.compile(COMPILING)
        if command is None:
            return files, None
        shell = ["sh", "-c", '"$@" >&2 && exec tar cf - .', "sh", *command]
        outcome = self.sandbox.run(shell, files=files, limits=COMPILING)
        if outcome.code != 0:
            return {}, ("compile", _last(outcome.stderr) or f"the compiler ended with {outcome.status}")
        return _unpacked(outcome.stdout), None


def same_lines(printed: str, expected: str) -> bool:
    """Whether two outputs are equal but for white space at the ends of lines and of the whole."""
    lines = [[line.rstrip() for line in text.strip().splitlines()] for text in (printed, expected)]
    return lines[0] == lines[1]


def _trouble(outcome: Outcome, toolchain: Toolchain) -> tuple[Reason, str] | None:
    error = _last(outcome.stderr)
    if outcome.status in ("timeout", "memory", "output"):
        return outcome.status, error
    reason: Reason | None = "wrong" if toolchain.language.wrong in error else None
    if outcome.code != 0:
        return reason or "error", error or f"ended with status {outcome.code}"
    return (reason, error) if reason else None


def _last(stderr: bytes) -> str:
    return stderr.decode(errors="replace").strip()[-DETAIL:]


def _unpacked(archive: bytes) -> dict[str, str | bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = [
            (member.name.removeprefix("./"), tar.extractfile(member)) for member in tar if member.isfile()
        ]
        return {name: file.read() for name, file in files if file}
