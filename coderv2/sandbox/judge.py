"""Judges programs: compiles, runs, compares, many side by side; the verdict says why.

A program with `tests` passes when it ends with status 0 and has printed a secret word that stands after its last test:
a program that exits early, prints that all is well, or has the rest of its file printed, has not passed. The word is in
the source, in two halves, so a program that reads its own file can still cheat; `evaluation/plus.py` keeps judge and
judged in two processes.
"""

import io
import os
import secrets
import tarfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from coderv2.errors import SandboxFailed
from coderv2.sandbox import toolchains
from coderv2.sandbox.languages import language
from coderv2.sandbox.reasons import DETAIL, REASONS, Failed, Reason, last, raise_if_failed
from coderv2.sandbox.run import DEFAULTS, Job, Limits, Outcome, Sandbox, best_sandbox
from coderv2.sandbox.toolchains import Toolchain

COMPILING = Limits(seconds=60.0, memory_bytes=2 << 30, output_bytes=64 << 20, file_bytes=64 << 20)


def same_lines(printed: str, expected: str) -> bool:
    """Whether two outputs are equal but for white space at the ends of lines and of the whole."""
    lines = [[line.rstrip() for line in text.strip().splitlines()] for text in (printed, expected)]
    return lines[0] == lines[1]


@dataclass(frozen=True)
class Case:
    """What a program reads from standard input and must print."""

    stdin: bytes
    expected: str | None  # None: anything
    same: Callable[[str, str], bool] = same_lines  # of what was printed and what is expected


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
    vouched: bool = False
    """The program is a judge itself, and trusted: its `main` reads an input that ends with a secret word, and prints
    that word and a reason (`passed`, `wrong` …)."""


@dataclass(frozen=True)
class Verdict:
    """`toolchain` and `sandbox` say nothing about the program: it was not run."""

    passed: bool
    reason: Reason
    detail: str
    seconds: float
    stdout: bytes = field(default=b"", repr=False)  # of the last run


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
            stdout = self._passed(program)
            return Verdict(True, "passed", "", time.monotonic() - start, stdout)
        except Failed as failed:
            return Verdict(False, failed.reason, failed.detail, time.monotonic() - start, failed.stdout)
        except SandboxFailed as error:
            return Verdict(False, "sandbox", str(error), time.monotonic() - start)

    def close(self) -> None:
        """Ends the sandbox and what still runs in it; what still waits for its turn is not run."""
        self.sandbox.close()
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _passed(self, program: Program) -> bytes:
        """What a program that passes printed last. Raises Failed for any other."""
        toolchain = _toolchain(program.language)
        word = secrets.token_hex(16)
        source = program.source
        if program.tests:
            source = toolchains.with_tests(program.language, source, program.tests, word)
        files = self._built(toolchain, {**program.files, toolchain.language.file: source})
        command = toolchain.run(source, program.limits)
        given = program.stdin + word.encode() + b"\n" if program.vouched else program.stdin
        for case in program.cases or [Case(given, None)]:
            limits = _roomy(program.limits, case)
            outcome = self.sandbox.run(Job(command, files, case.stdin, limits, program.vouched))
            raise_if_failed(outcome, toolchain.language)
            _compare(outcome, program, case, word)
        return outcome.stdout

    def _built(self, toolchain: Toolchain, files: Mapping[str, str | bytes]) -> Mapping[str, str | bytes]:
        """All files once the compiler is through, or the same where there is none. Raises Failed."""
        command = toolchain.compile(COMPILING)
        if command is None:
            return files
        shell = ["sh", "-c", '"$@" >&2 && exec tar cf - .', "sh", *command]
        outcome = self.sandbox.run(Job(shell, files, limits=COMPILING))
        if outcome.code != 0:
            raise Failed("compile", last(outcome.stderr) or f"the compiler ended with {outcome.status}")
        return _unpacked(outcome.stdout)


def _toolchain(name: str) -> Toolchain:
    found = toolchains.find(name)
    if found is None:
        raise Failed("toolchain", f"{name} cannot be run here: install {language(name).package}")
    return found


def _roomy(limits: Limits, case: Case) -> Limits:
    """With room for the expected output, however long, and as much again."""
    expected = len((case.expected or "").encode())
    return replace(limits, output_bytes=max(limits.output_bytes, 2 * expected))


def _compare(outcome: Outcome, program: Program, case: Case, word: str) -> None:
    printed = outcome.stdout.decode(errors="replace")
    if case.expected is not None and not case.same(printed, case.expected):
        raise Failed("wrong", f"printed {printed[:DETAIL]}", outcome.stdout)
    if program.tests and word not in printed:
        raise Failed("error", "ended before its tests did", outcome.stdout)
    if program.vouched:
        said, _, detail = printed.rpartition(word)[2].strip().partition(" ")
        reason: Reason = next((reason for reason in REASONS if word in printed and reason == said), "error")
        if reason != "passed":
            raise Failed(reason, detail, outcome.stdout)


def _unpacked(archive: bytes) -> dict[str, str | bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = [
            (member.name.removeprefix("./"), tar.extractfile(member)) for member in tar if member.isfile()
        ]
        return {name: file.read() for name, file in files if file}
