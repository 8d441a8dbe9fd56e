"""Conversations for the instruction phase, made by program from the exercises and from a page of small talk.

Whatever they state about code was computed: answers are solutions that passed their checks, outputs come from
running the program shown, and a function to be mended fails a check that the mended one passes.
"""

import contextlib
import dataclasses
import io
import itertools
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from coderv2.data.composed import composed
from coderv2.data.document import choice_seed
from coderv2.data.exercises import Exercise, bank, checked, example
from coderv2.errors import BadData
from coderv2.text.chat import Message

Conversation = list[Message]

TALK = Path(__file__).parent / "talk.txt"
SYSTEM = (
    "You are a helpful AI assistant",
    "You are a coding assistant.",
    "You are an expert Python programmer.",
)
OTHER_LANGUAGES = ("C++", "Java", "JavaScript", "C", "Rust", "Go", "Ruby", "PHP")

# A change that breaks many solutions; whether it broke this one is decided by running it.
_FAULTS = (
    ("<=", "<"),
    (" < ", " > "),
    ("+ 1", "+ 2"),
    ("return ", ""),
    ("//", "*"),
    (" == ", " != "),
    ("+= ", "-= "),
)

_ASK_FUNCTION = (
    "Write a Python function that {says}.",
    "write a function in python that {says}",
    "Write a function `{name}` that {says}.",
    "Implement a function that {says} in Python.",
    "Can you write a python function that {says}?",
    "Please write a function called {name} that {says}.",
    "I need a function that {says}.",
    "python function that {says}",
    "Give me code that {says}.",
    "write code that {says}",
)
_ASK_TOPIC = (
    "write {topic} in python.",
    "write {topic} in python",
    "Write {topic} in Python.",
    "write {topic}",
    "Implement {topic} in Python.",
    "Can you write {topic} for me?",
    "Show me {topic} in Python.",
    "How do I write {topic} in Python?",
    "Please implement {topic}.",
    "code for {topic}",
)
_ASK_LANGUAGE = (
    "Write {topic} in {language}.",
    "Write a piece of {topic} code in {language}.",
    "write {topic} in {language}",
    "Implement {topic} in {language}.",
)
_ASK_MENDING = ("Fix this function:", "Find the bug in this function.", "This code is wrong, please fix it:")
_ASK_OUTPUT = ("What does this print?", "What is the output of this code?", "what does this program print")
_PROGRAMS = (
    "print({a} + {b})",
    "print({a} * {b})",
    "print({a} - {b})",
    "for i in range({b}):\n    print(i)",
    "print(len({items}))",
    "print(sum({items}))",
    "print(max({items}))",
    "print(sorted({items}))",
    "x = {a}\ny = {b}\nprint(x + y)",
    'print("{word}".upper())',
    'print("{word}"[0])',
    'print(len("{word}"))',
)
_WORDS = ("python", "code", "list", "tree", "word")


def conversations(copies: int) -> Iterator[Conversation]:
    """All of them: every hand-written exercise in about `copies` wordings, the rest in proportion."""
    for number, exercise in enumerate(_one_answer_each(bank())):
        yield from _questions(exercise, number, copies)
        yield from _mending(exercise, random.Random(choice_seed("mend", number)), copies // 4)
        if exercise.topic:
            yield from (_other_language(exercise, language) for language in OTHER_LANGUAGES)
    for number, exercise in enumerate(_one_answer_each(composed())):
        yield from itertools.islice(_questions(exercise, -number, copies), number % 6, None, 6)
    yield from (printed(random.Random(choice_seed("print", i))) for i in range(20 * copies))
    for question, answer in small_talk():
        yield from ([Message("user", question), Message("assistant", answer)] for _ in range(copies // 2))


def small_talk() -> Iterator[tuple[str, str]]:
    """Question and answer, one pair for every wording of the question."""
    for block in re.split(r"\n\n(?=Q: )", TALK.read_text(encoding="utf-8").strip()):
        questions, separator, answer = block.partition("\nA: ")
        if not separator:
            raise BadData(f"{TALK.name}: no answer to {questions.splitlines()[0]!r}")
        yield from ((line.removeprefix("Q: "), answer) for line in questions.splitlines())


def printed(rng: random.Random) -> Conversation:
    """A program of a few lines and what it prints, which is found by running it."""
    values = {"a": rng.randint(2, 20), "b": rng.randint(2, 9), "word": rng.choice(_WORDS)}
    items = [rng.randint(0, 9) for _ in range(rng.randint(2, 5))]
    code = rng.choice(_PROGRAMS).format(items=items, **values)
    answer = f"It prints:\n\n```\n{_run(code)}```"
    return [Message("user", f"{rng.choice(_ASK_OUTPUT)}\n\n{_fenced(code)}"), Message("assistant", answer)]


def _one_answer_each(exercises: Iterable[Exercise]) -> Iterator[Exercise]:
    """Of exercises that do the same, the first answers for all; the others answer only to their own `asks`.

    A small model that knows three quick sorts by one name writes a mixture of them.
    """
    answered: set[str] = set()
    for exercise in exercises:
        if exercise.says not in answered:
            yield exercise
        elif exercise.asks:
            yield dataclasses.replace(exercise, topic="", own_words=True)
        answered.add(exercise.says)


def _questions(exercise: Exercise, number: int, copies: int) -> Iterator[Conversation]:
    """`copies` conversations about the exercise, its wordings in turn."""
    asked = wordings(exercise)
    for copy in range(copies):
        yield _question(exercise, asked[copy % len(asked)], random.Random(choice_seed("ask", number, copy)))


def _question(exercise: Exercise, question: str, rng: random.Random) -> Conversation:
    """A question for the exercise and its solution; sometimes after a system message or a greeting."""
    variant = checked(exercise.renamed(rng))
    before: Conversation = []
    if rng.random() < 0.1:
        before.append(Message("system", rng.choice(SYSTEM)))
    if rng.random() < 0.1:
        greeting, answer = rng.choice([*small_talk()])
        before += [Message("user", greeting), Message("assistant", answer)]
    return [*before, Message("user", question), Message("assistant", _answer(variant, rng))]


def wordings(exercise: Exercise) -> list[str]:
    """Every way in which the exercise is asked for."""
    functions = () if exercise.own_words else _ASK_FUNCTION
    topics = _ASK_TOPIC if exercise.topic else ()
    words = {"says": exercise.says, "name": exercise.name, "topic": exercise.topic}
    return [text.format(**words) for text in (*exercise.asks, *topics, *functions)]


def _answer(exercise: Exercise, rng: random.Random) -> str:
    kind = "class" if exercise.name[0].isupper() else "function"
    text = f"Here is a {kind} that {exercise.says}:\n\n{_fenced(exercise.code)}"
    shown = example(exercise.checks[0])
    if shown is None or rng.random() > 0.3:
        return text
    return f"{text}\n\nFor example, `{shown[0]}` gives `{shown[1]}`."


def _other_language(exercise: Exercise, language: str) -> Conversation:
    rng = random.Random(choice_seed("language", exercise.name, language))
    topic = rng.choice((re.sub("^(a|an) ", "", exercise.topic), exercise.name.replace("_", "").lower()))
    question = rng.choice(_ASK_LANGUAGE).format(topic=topic, language=language)
    answer = f"I only know Python, not {language}. In Python it is:\n\n{_fenced(exercise.code)}"
    return [Message("user", question), Message("assistant", answer)]


def _mending(exercise: Exercise, rng: random.Random, count: int) -> Iterator[Conversation]:
    """Up to `count` requests to mend the solution, each with a fault that really breaks it."""
    broken = [code for old, new in _FAULTS if (code := exercise.code.replace(old, new, 1)) != exercise.code]
    for code in [code for code in broken if _fails(dataclasses.replace(exercise, code=code))][:count]:
        answer = f"This is the corrected code:\n\n{_fenced(exercise.code)}"
        yield [
            Message("user", f"{rng.choice(_ASK_MENDING)}\n\n{_fenced(code)}"),
            Message("assistant", answer),
        ]


def _fails(exercise: Exercise) -> bool:
    if "while" in exercise.code:
        return False  # a broken loop may never end
    try:
        checked(exercise)
    except RecursionError:
        return False
    except Exception:  # whatever a broken program raises
        return True
    return False


def _run(code: str) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(code, {})
    return output.getvalue()


def _fenced(code: str) -> str:
    return f"```python\n{code.strip()}\n```"
