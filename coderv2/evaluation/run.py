"""Runs a task: every sample is asked for, judged and recorded, many at a time; what is recorded is not done again."""

import asyncio
import json
import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from coderv2.errors import BadData, ContextTooLong, InvalidValue, Unsupported
from coderv2.evaluation import fingerprint
from coderv2.evaluation.asking import Ask, Choose, Generator, Place, Problem, Reply, Style
from coderv2.evaluation.data import Data
from coderv2.evaluation.records import Record, Records, item
from coderv2.evaluation.score import Figures
from coderv2.evaluation.task import Attempt, Task, too_long
from coderv2.evaluation.toolbox import Toolbox


@dataclass(frozen=True)
class Settings:
    """How a task is run. A run that goes on with other settings than it began with is refused."""

    style: Style | None = None
    """None: the one that the task's published number was measured with."""
    limit: int | None = None
    """So many problems, spread over all by a hash of their ids: those of a smaller limit are among them."""
    samples: int = 1
    temperature: float | None = None
    """None: the protocol's."""
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int = 0
    in_flight: int = 64
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("limit", "samples", "in_flight", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidValue(f"{name} must be at least 1, not {value}", param=name)
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise InvalidValue(f"temperature must be at least 0, not {self.temperature}", param="temperature")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InvalidValue(f"top_p must be above 0 and at most 1, not {self.top_p}", param="top_p")
        if self.samples > 1 and not self.temperature:
            raise InvalidValue(
                f"{self.samples} samples need a --temperature above 0: greedy ones are all the same",
                param="samples",
            )

    def chosen_style(self, task: Task) -> Style:
        """Raises Unsupported for a prompt that the task does not have."""
        if self.style is None or self.style in task.styles:
            return self.style or task.styles[0]
        raise Unsupported(
            f"{task.name} has no {self.style} prompt, only {' and '.join(task.styles)}", param="prompt"
        )

    def decoded(self, ask: Ask) -> Ask:
        """The ask with what the caller wants otherwise than the protocol. Options are weighed, nothing is written."""
        if isinstance(ask, Choose):
            return ask
        wanted = {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens}
        given: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
        return replace(ask, decoding=replace(ask.decoding, **given)) if given else ask


def problems(task: Task, data: Data, limit: int | None = None) -> list[Problem]:
    """A task's problems, or some of them. Raises BadData, with the way out, for a file without what the task needs."""
    names = ", ".join(str(data.path(source)) for source in task.sources)  # what is missing tells that itself
    try:
        found = list(task.problems(data))
    except BadData as error:
        raise _damaged(task, data, str(error)) from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise _damaged(task, data, f"{names} is not what it should be ({error!r})") from error
    if not found:
        raise _damaged(task, data, f"no problem in {names}")
    return _spread(found, limit)


def _damaged(task: Task, data: Data, what: str) -> BadData:
    """With the way out for the files that `what` names, or else for all."""
    named = [source for source in task.sources if str(data.path(source)) in what] or task.sources
    ways_out = dict.fromkeys(data.renewal(source) for source in named)
    return BadData("; ".join([f"{task.name}: {what}", *ways_out]))


def _spread(found: Sequence[Problem], limit: int | None) -> list[Problem]:
    chosen = {p.id for p in sorted(found, key=lambda p: zlib.crc32(p.id.encode()))[:limit]}
    return [problem for problem in found if problem.id in chosen]


async def run(
    task: Task, data: Data, generator: Generator, out: Path, settings: Settings, toolbox: Toolbox
) -> Figures:
    """All samples that `out` does not hold yet, then the task's figures.

    Whatever goes wrong (a dead endpoint, a full disk) is raised after the samples that are ready were recorded.
    """
    style = settings.chosen_style(task)
    found = problems(task, data)
    chosen = _spread(found, settings.limit)
    places = [
        Place(task.name, problem, i, settings.seed) for problem in chosen for i in range(settings.samples)
    ]
    header = await _header(task, data, generator, settings, style, toolbox)
    if not task.measured_by_tokens:  # whose grid may grow
        header["layout"] = fingerprint.of_text(repr(task.prompt(found[0], style)))
    with Records(out / f"{task.name}.jsonl", header) as records:
        todo = [place for place in places if (place.problem.id, place.index) not in records.samples]
        work = _Work(task, style, generator, settings, toolbox, records)
        with _bar(task, len(places), records, shown=settings.progress) as step:
            await _all(work, todo, step)
        figures = task.figures([item(records.samples[place.problem.id, place.index]) for place in places])
        return replace(figures, asked=len(chosen), there=len(found))


@dataclass(frozen=True)
class _Work:
    """What all samples of one run share; the tools of its attempts."""

    task: Task
    style: Style
    generator: Generator
    settings: Settings
    toolbox: Toolbox
    records: Records

    async def one(self, place: Place) -> None:
        begin = time.perf_counter()
        attempt = await self._attempt(place)
        self.records.append(_record(place, attempt, time.perf_counter() - begin))

    async def _attempt(self, place: Place) -> Attempt:
        tools = self.toolbox.over(self._ask)
        try:
            return await self.task.attempt(place, self.style, tools)
        except ContextTooLong as error:
            return too_long(self.task.prompt(place.problem, self.style), error)

    async def _ask(self, ask: Ask, place: Place) -> Reply:
        return await self.generator.reply(self.settings.decoded(ask), place)


async def _all(work: _Work, places: Sequence[Place], step: Callable[[], None]) -> None:
    """The first error ends the others, but not before those that are being written are on disk."""
    queue = iter(places)

    async def serve() -> None:
        for place in queue:
            await work.one(place)
            step()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(work.settings.in_flight, len(places))):
                group.create_task(serve())
    except BaseExceptionGroup as errors:
        raise _first(errors) from None


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


async def _header(
    task: Task, data: Data, generator: Generator, settings: Settings, style: Style, toolbox: Toolbox
) -> Record:
    """What must be equal for two samples to belong to one run."""
    own = {name: getattr(settings, name) for name in ("temperature", "top_p", "max_tokens", "seed")}
    return {
        "coderv2": "eval 1",
        "task": task.name,
        **await generator.identity(),
        "tokenizer": data.tokenizer and fingerprint.of_text(data.tokenizer.backend.to_str()),
        "judge": await toolbox.judged_by() if task.refereed else None,
        "prompt": style,
        "data": {source.path: data.digest(source)[:16] for source in task.sources},
        **own,
    }


def _record(place: Place, attempt: Attempt, seconds: float) -> Record:
    ask, reply, score = attempt.exchange.ask, attempt.exchange.reply, attempt.score
    return {
        "problem": place.problem.id,
        "sample": place.index,
        "group": place.problem.group,
        "prompt": ask.shown,
        "prompt_hash": fingerprint.of_text(json.dumps(ask.shown, ensure_ascii=False)),
        "reply": reply.text,
        "finish_reason": reply.finish_reason,
        "tokens": reply.tokens,
        "logprobs": list(reply.logprobs),
        "program": score.program,
        "answer": score.answer,
        "verdict": {
            "value": score.value,
            "passed": score.passed,
            "reason": score.reason,
            "detail": score.detail,
            "others": dict(score.others),
            "kept": dict(score.kept),
            "seconds": round(score.seconds, 4),
        },
        "seconds": round(seconds, 4),
    }


@contextmanager
def _bar(task: Task, total: int, records: Records, *, shown: bool) -> Iterator[Callable[[], None]]:
    """Progress with the score so far and the time left; what is yielded is called after each sample."""
    values = [item.value for item in records.items()]
    done, points = len(values), sum(values)
    with tqdm(
        total=total, initial=min(done, total), desc=task.name, disable=not shown, dynamic_ncols=True
    ) as bar:

        def step() -> None:
            nonlocal done, points
            done, points = done + 1, points + next(reversed(records.samples.values()))["verdict"]["value"]
            bar.set_postfix_str(f"score {points / done:.3f}", refresh=False)
            bar.update()

        yield step
