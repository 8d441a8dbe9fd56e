"""What compiles and runs a language here: found, never assumed."""

import re
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from coderv2.errors import InvalidValue
from coderv2.sandbox.languages import Language, language
from coderv2.sandbox.limits import Limits
from coderv2.sandbox.view import PATH, shown

_JARS = "/usr/share/java/javatuples.jar"


@dataclass(frozen=True)
class Toolchain:
    """A language whose programs are all here."""

    language: Language

    def compile(self, limits: Limits) -> list[str] | None:
        """The command that compiles the source, in its folder; None where nothing is compiled."""
        return _words(self.language.compile, limits) if self.language.compile else None

    def run(self, source: str, limits: Limits) -> list[str]:
        """The command that runs it."""
        return _words(self.language.run, limits, main_class(source) if "{main}" in self.language.run else "")


@cache
def find(name: str) -> Toolchain | None:
    """The toolchain of a language, or None where a program of it is missing: `language(name).package` brings it."""
    wanted = language(name)
    commands = [command.split()[0] for command in (wanted.run, wanted.compile) if command]
    return Toolchain(wanted) if all(map(_is_shown, commands)) else None


def with_tests(name: str, source: str, tests: str, token: str) -> str:
    """A program, then tests that print `token` once the last has passed: an exit status of 0 alone proves nothing."""
    return f"{_still_code(source, language(name).leaves)}\n{_with_proof(name, tests, token)}"


def _still_code(source: str, leaves: str) -> str:
    """As honest programs end, what follows would not be run."""
    return source.rstrip().removesuffix(leaves) if leaves else source


def _with_proof(name: str, tests: str, token: str) -> str:
    """The token stands there in two halves: a program that has its own text printed has not printed it."""
    wanted = language(name)
    statement = wanted.tell
    for half in (token[: len(token) // 2], token[len(token) // 2 :]):
        statement = statement.replace("{}", half, 1)
    statement = f"\n{statement}\n"
    if not wanted.closing:
        return tests + statement
    ends = [match.start() for match in re.finditer("}", tests)]
    if len(ends) < wanted.closing:
        raise InvalidValue(
            f"tests in {name} must close their main function: {wanted.closing} of '}}'", param="tests"
        )
    at = ends[-wanted.closing]
    return tests[:at] + statement + tests[at:]


def main_class(source: str) -> str:
    """The Java class that holds `main`: the last one opened before it."""
    before, found, _ = source.partition("static void main")
    names = re.findall(r"\b(?:class|record|enum)\s+(\w+)", before)
    return names[-1] if found and names else "Main"


def _words(command: str, limits: Limits, main: str = "") -> list[str]:
    heap = str(limits.memory_bytes * 3 // 4 >> 20)
    return command.format(heap=heap, main=main, jars=_JARS).split()


def _is_shown(program: str) -> bool:
    path = shutil.which(program, path=PATH)
    return program.startswith("./") or (
        path is not None
        and any(root in Path(path).resolve().parents for root in (p.resolve() for p in shown()))
    )
