"""Several tasks, one after another: what is missing is said, what is done is in summary.json."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from coderv2.errors import BadData, Unsupported
from coderv2.evaluation import records
from coderv2.evaluation.asking import Generator
from coderv2.evaluation.data import Data
from coderv2.evaluation.run import Settings, run
from coderv2.evaluation.score import Unmeasured
from coderv2.evaluation.storing import alone, put
from coderv2.evaluation.task import Task
from coderv2.evaluation.toolbox import Toolbox

SUMMARY = "summary.json"
Summary = dict[str, dict[str, Any]]


def lacks(task: Task, data: Data, *, refereed: bool) -> list[str]:
    """What a task needs and has not got here, each with the way to get it."""
    found = [f"{data.folder / s.path}: {s.hint}" for s in task.sources if not data.has(s)]
    if (tool := task.lacks()) is not None:
        found.append(tool)
    if task.refereed and not refereed:
        found.append("a judging model: name one with --judge URL and --judge-model NAME")
    return found


def ready(task: Task, data: Data) -> bool:
    """Whether its files are here and need not be fetched."""
    return all(data.find(source) is not None for source in task.sources)


def unfetched(task: Task, data: Data) -> list[str]:
    """Fetches what is not here; what cannot be, with the way to get it."""
    found = []
    for source in task.sources:
        try:
            data.path(source)
        except BadData as error:
            found.append(str(error))
    return found


def unfit(task: Task, data: Data, settings: Settings) -> list[str]:
    """What of this run does not go with a task, each with the way out."""
    found = []
    if settings.style not in (None, *task.styles):
        found.append(f"a {settings.style} prompt, which it has not: leave --prompt out")
    if task.measured_by_tokens and data.tokenizer is None:
        found.append("the model's tokenizer: name it with --tokenizer MODEL")
    return found


async def run_all(
    tasks: Iterable[Task],
    data: Data,
    generator: Generator,
    out: Path,
    settings: Settings,
    toolbox: Toolbox,
    *,
    skip_missing: bool,
) -> Summary:
    """Runs each task and adds it to `out`/summary.json. A task that lacks something is listed there as not run.

    Unless `skip_missing`, that is an error, before anything runs. So is what turns out to be unsupported on the way, or
    damaged; with it, the other tasks are run, and `damaged` names those that were not.
    """
    refereed = toolbox.referee is not None
    needed = {
        task.name: lacks(task, data, refereed=refereed) + unfit(task, data, settings) or unfetched(task, data)
        for task in tasks
    }
    missing = {name: "; ".join(needs) for name, needs in needed.items() if needs}
    if missing and not skip_missing:
        raise BadData("cannot run " + "; ".join(f"{name} without {needs}" for name, needs in missing.items()))
    for task in tasks:
        if task.name in missing:
            write(out, {task.name: not_run(task, missing[task.name])})
            continue
        try:
            figures = await run(task, data, generator, out, settings, toolbox)
        except Unmeasured as error:
            write(out, {task.name: not_run(task, f"{error}; the replies are in {out / task.name}.jsonl")})
            continue
        except (BadData, Unsupported) as error:
            if not skip_missing:
                raise
            write(out, {task.name: not_run(task, str(error), damaged=isinstance(error, BadData))})
            continue
        limit = settings.limit if figures.asked < figures.there else None
        sandbox = toolbox.judge.sandbox.name if toolbox.judge else None
        facts = {"title": task.title, "limit": limit, "note": task.note, "sandbox": sandbox}
        told = records.header(out / f"{task.name}.jsonl")
        write(out, {task.name: {**told, **figures.as_json(), **facts}})
    return read(out)


def damaged(summary: Summary) -> list[str]:
    """Tasks whose files are here and could not be used."""
    return [name for name, figures in summary.items() if figures.get("damaged")]


def not_run(task: Task, reason: str, *, damaged: bool = False) -> dict[str, Any]:
    """A task without a number: none, never zero."""
    return {
        "metric": task.metric,
        "value": None,
        "n": 0,
        "stderr": None,
        "title": task.title,
        "not_run": reason,
        "damaged": damaged,
    }


def read(out: Path) -> Summary:
    """The summary of a run. Raises BadData where there is none."""
    path = out / SUMMARY
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise BadData(f"{out} holds no {SUMMARY}: it is written by coderv2 eval … --out {out}") from None
    except ValueError as error:
        raise BadData(f"{path}: damaged ({error})") from None
    if not isinstance(found, dict):
        raise BadData(f"{path}: damaged, not an object")
    return found


def write(out: Path, news: Mapping[str, Mapping[str, Any]]) -> None:
    """Adds to the summary, all at once. Raises ServiceError for a disk that is full; the old one stays."""
    with alone(out):
        old = read(out) if (out / SUMMARY).exists() else {}
        text = json.dumps({**old, **news}, indent=2, ensure_ascii=False) + "\n"
        put(out / SUMMARY, text.encode())
