"""Exercises made by program: a task in words, a solution, and checks that were run on it.

The bank (`exercise_bank/*.txt`) holds hand-written ones in a plain format; `composed.py` makes more. All of them
are ours, so solutions run in this process: nothing here is safe for code from elsewhere. An exercise that fails
its checks never leaves this module.
"""

import contextlib
import dataclasses
import io
import random
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from coderv2.data.document import Document, choice_seed
from coderv2.errors import BadData

BANK = Path(__file__).parent / "exercise_bank"
SOURCE, LICENCE = "exercises", "MIT"


@dataclass(frozen=True)
class Exercise:
    """One task with a solution."""

    name: str
    """The function or class to write."""
    says: str
    """What it does, in the third person: "sorts a list with quick sort"."""
    topic: str
    """What it is, as a noun: "a quick sort algorithm"; may be empty."""
    asks: tuple[str, ...]
    """Other short wordings of the question."""
    names: tuple[str, ...]
    """A parameter's name and what else it may be called."""
    code: str
    checks: tuple[str, ...]
    """Expressions that must be true; `folder` is an empty folder."""
    own_words: bool = False
    """Whether it is asked for by `asks` alone, since another exercise answers to what it does."""

    def renamed(self, rng: random.Random) -> "Exercise":
        """The same exercise, its parameter called by another of its names half of the time."""
        if not self.names or rng.random() < 0.5:
            return self
        chosen = rng.choice(self.names)
        if re.search(rf"\b{chosen}\b", self.code):
            return self
        return dataclasses.replace(self, code=re.sub(rf"\b{self.names[0]}\b", chosen, self.code))


def bank() -> list[Exercise]:
    """The hand-written exercises, all of them checked."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(BANK.glob("*.txt"))]
    return [checked(_parse(block)) for text in texts for block in re.split(r"(?m)^=== ", text)[1:]]


def checked(exercise: Exercise) -> Exercise:
    """The exercise itself, after its solution passed all its checks; BadData otherwise."""
    space: dict[str, object] = {"__name__": "exercise"}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        space["folder"] = Path(folder)
        exec(exercise.code, space)
        failed = [check for check in exercise.checks if not eval(check, space)]
    if failed or not exercise.checks:
        raise BadData(f"the solution of exercise {exercise.name} fails {failed or 'for want of checks'}")
    return exercise


def documents(exercises: Iterable[Exercise], copies: int) -> Iterator[Document]:
    """Each exercise as `copies` source files, as people write them: bare, after a comment, with a docstring…"""
    for number, exercise in enumerate(exercises):
        for copy in range(copies):
            rng = random.Random(choice_seed("exercise", number, copy))
            variant = checked(exercise.renamed(rng))
            text = rng.choice((_bare, _commented, _commented, _documented, _tested, _shown))(variant, rng)
            yield Document(f"{SOURCE}/{variant.name}/{number}/{copy}", text, SOURCE, "1", LICENCE)


def _parse(block: str) -> Exercise:
    fields: dict[str, list[str]] = {"topic": [], "say": [], "ask": [], "names": [], "check": []}
    name, *lines = block.strip().split("\n")
    code: list[str] = []
    for line in lines:
        key, _, value = line.partition(": ")
        if key in fields:
            fields[key].append(value)
        else:
            code.append(line)
    return Exercise(
        name=name,
        says=fields["say"][0],
        topic="".join(fields["topic"]),
        asks=tuple(fields["ask"]),
        names=tuple("".join(fields["names"]).split("|")) if fields["names"] else (),
        code="\n".join(code).strip() + "\n",
        checks=tuple(fields["check"]),
    )


def _bare(exercise: Exercise, rng: random.Random) -> str:
    return exercise.code


def _commented(exercise: Exercise, rng: random.Random) -> str:
    what = exercise.topic or f"a function that {exercise.says}"
    line = rng.choice(
        (f"write {what}", f"write {what} in python", f"Write {what}.", f"a function that {exercise.says}")
    )
    return f"#{rng.choice(('', ' '))}{line}\n{exercise.code}"


def _documented(exercise: Exercise, rng: random.Random) -> str:
    """With a docstring under the signature of the named function or class."""
    sentence = exercise.says[0].upper() + exercise.says[1:] + "."
    return re.sub(
        rf"(?m)^((?:def|class) {exercise.name}\b.*:)$",
        lambda match: f'{match[1]}\n    """{sentence}"""',
        exercise.code,
    )


def _tested(exercise: Exercise, rng: random.Random) -> str:
    usable = [check for check in exercise.checks if is_plain(check)]
    tests = "".join(f"    assert {check}\n" for check in usable)
    return f"{exercise.code}\n\ndef test_{exercise.name.lower()}():\n{tests}" if tests else exercise.code


def _shown(exercise: Exercise, rng: random.Random) -> str:
    calls = [call for check in exercise.checks if (call := example(check)) is not None]
    shown = "".join(f"    print({call})  # {value}\n" for call, value in calls)
    return f'{exercise.code}\n\nif __name__ == "__main__":\n{shown}' if shown else exercise.code


def is_plain(check: str) -> bool:
    """Whether a reader without our checks' helpers can run it."""
    return "folder" not in check and ":=" not in check


def example(check: str) -> tuple[str, str] | None:
    """Call and value of a check of the form `call == value` or `call is value`."""
    found = re.fullmatch(r"(.*?) (?:==|is) (.*)", check)
    return (found[1], found[2]) if found and is_plain(check) else None
