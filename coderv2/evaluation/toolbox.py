"""What attempts work with beside the model: the sandbox, and a judging model where one was given."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from coderv2.errors import ServiceError, Unsupported
from coderv2.evaluation.asking import Ask, Chat, Generator, Place, Problem, Reply
from coderv2.sandbox import languages, toolchains
from coderv2.sandbox.judge import Judge, Program, Verdict

_Asker = Callable[[Ask, Place], Awaitable[Reply]]


class Toolbox:
    """For all tasks of a run."""

    def __init__(self, judge: Judge | None = None, referee: Generator | None = None) -> None:
        """`judge` None: nothing is run; a task that must run something fails."""
        self.judge = judge
        self.referee = referee
        self._once: dict[str, asyncio.Task[Verdict]] = {}
        self._threads = ThreadPoolExecutor(judge.workers if judge else 1, thread_name_prefix="verdicts")

    def over(self, ask: _Asker) -> "BoundTools":
        """With the model that is asked."""
        return BoundTools(self, ask)

    async def run(self, program: Program) -> Verdict:
        """The verdict on one program, in its turn. Raises ServiceError when it could not be run."""
        if self.judge is None:
            raise Unsupported("this task runs programs, and no sandbox was given")
        verdict = await asyncio.get_running_loop().run_in_executor(
            self._threads, self.judge.judge_one, program
        )
        if verdict.reason in ("sandbox", "toolchain"):
            # Never a wrong answer: it says nothing about the program.
            raise ServiceError(f"the sandbox failed: {verdict.detail}")
        return verdict

    async def run_once(self, key: str, make: Callable[[], Program]) -> Verdict:
        """See `Tools`. What failed is tried anew when it is asked for again."""
        if key not in self._once:
            self._once[key] = asyncio.create_task(self.run(make()))
        try:
            # Others may wait for it, whatever becomes of this one.
            return await asyncio.shield(self._once[key])
        except ServiceError:
            self._once.pop(key, None)
            raise

    async def judged_by(self) -> str:
        """The judging model and where it is."""
        return " at ".join((await self._judging().identity()).values())

    async def refereed(self, ask: Chat) -> Reply:
        """What the judging model says."""
        return await self._judging().reply(ask, Place("referee", Problem("referee", {})))

    def _judging(self) -> Generator:
        if self.referee is None:
            raise Unsupported("this task needs a judging model: name one with --judge and --judge-model")
        return self.referee

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown()


@dataclass(frozen=True)
class BoundTools:
    """The `Tools` of one run."""

    box: Toolbox
    asker: _Asker

    async def ask(self, ask: Ask, place: Place) -> Reply:
        """See `Tools`."""
        return await self.asker(ask, place)

    async def referee(self, ask: Chat) -> Reply:
        """See `Tools`."""
        return await self.box.refereed(ask)

    async def run(self, program: Program) -> Verdict:
        """See `Tools`."""
        return await self.box.run(program)

    async def run_once(self, key: str, make: Callable[[], Program]) -> Verdict:
        """See `Tools`."""
        return await self.box.run_once(key, make)


def missing(language: str) -> str | None:
    """Why programs in this language cannot be run here; None when they can."""
    if toolchains.find(language) is not None:
        return None
    return f"no toolchain for {language}: install {languages.language(language).package}"
