"""`coderv2 eval`: any benchmark on any model, and what came of it."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coderv2 import paths
from coderv2.cli import interrupts, loading, options
from coderv2.errors import BadData, InvalidValue

if TYPE_CHECKING:
    from coderv2.evaluation.asking import Generator
    from coderv2.evaluation.data import Data
    from coderv2.evaluation.run import Settings
    from coderv2.evaluation.task import Task
    from coderv2.evaluation.toolbox import Toolbox
    from coderv2.text.tokenizer import Tokenizer

_DATA = click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Benchmark files.  [default: CODERV2_DATA, else fetched from their public places]",
)
_STORED = ("canonical", "empty")


class _RunByDefault(click.Group):
    """`eval humaneval` is `eval run humaneval`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A word that is no command is a task."""
        if args and args[0] not in self.commands:
            args = ["run", *args]
        return super().resolve_command(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """With the short form."""
        formatter.write_usage(ctx.command_path, "TASK... [OPTIONS]")


@click.group(
    cls=_RunByDefault, invoke_without_command=True, context_settings={"ignore_unknown_options": True}
)
@click.pass_context
def eval(ctx: click.Context) -> None:  # noqa: A001  the command's name
    """Run benchmarks on a model, and report.

    \b
    coderv2 eval humaneval mbpp --out scores
    coderv2 eval all --endpoint http://localhost:8000/v1 -m MODEL --limit 50
    coderv2 eval list
    coderv2 eval report scores
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@eval.command()
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@options.model
@options.dtype
@click.option(
    "--endpoint", metavar="URL", help="Measure an OpenAI-compatible endpoint; MODEL is its name there."
)
@click.option(
    "--answers",
    metavar="FILE",
    help="Judge these replies (JSON lines of task_id and reply), or those called canonical or empty; no model runs.",
)
@click.option("--limit", type=int, metavar="N", help="N problems of each task, spread over all.")
@click.option(
    "--samples", type=int, default=1, show_default=True, metavar="N", help="Replies to each problem."
)
@click.option("--temperature", type=float, metavar="X", help="Randomness.  [default: the protocol's]")
@click.option(
    "--top-p", type=float, metavar="X", help="Choose among the fewest tokens that hold this probability."
)
@click.option(
    "--max-tokens", type=int, metavar="N", help="Tokens of a reply at most.  [default: the protocol's]"
)
@click.option(
    "--prompt", type=click.Choice(["chat", "base"]), help="How to ask.  [default: as was published]"
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of random replies.")
@click.option("--in-flight", type=int, default=64, show_default=True, metavar="N", help="Samples at a time.")
@click.option(
    "--tokenizer", metavar="MODEL", help="The endpoint's tokenizer, where prompts are cut by tokens."
)
@click.option(
    "--lengths", metavar="N,N,…", help="Of the needle's grid, tokens.  [default: 16, from 1K to 128K]"
)
@click.option("--depths", metavar="P,P,…", help="Of the needle's grid, percent.  [default: 0,10,…,100]")
@click.option("--judge", metavar="URL", help="An endpoint whose model judges answers.")
@click.option("--judge-model", metavar="NAME", help="That model's name there.")
@click.option(
    "--unprotected",
    is_flag=True,
    help="Run programs with your own rights where no sandbox works; Defects4J has none.",
)
@_DATA
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="eval",
    show_default=True,
    metavar="DIR",
    help="Records of all samples, and summary.json; given again, a run goes on where it was.",
)
def run(tasks: Sequence[str], data: Path | None, out: Path, **values: Any) -> None:
    """Run tasks; `all` runs what is ready here and lists the rest, and fails at the end where files are damaged.

    Keys of endpoints are read from CODERV2_API_KEY and CODERV2_JUDGE_KEY.
    """
    from coderv2.evaluation import suite
    from coderv2.evaluation import tasks as registry
    from coderv2.evaluation.run import Settings

    _check_used(values)
    every = "all" in tasks
    chosen = list(registry.TASKS.values()) if every else registry.named(tuple(tasks))
    chosen = _on_grid(chosen, lengths=values["lengths"], depths=values["depths"])
    chosen = _by_leave(chosen, unprotected=values["unprotected"])
    _check_judged(chosen, values)
    names = ("limit", "samples", "temperature", "top_p", "max_tokens", "seed", "in_flight")
    settings = Settings(style=values["prompt"], **{name: values[name] for name in names})
    bench = _Bench(chosen, data, settings, values)
    with bench.open() as (files, generator, toolbox):
        interrupts.as_usual()
        found = asyncio.run(
            _closing(
                [generator, toolbox.referee],
                suite.run_all(chosen, files, generator, out, settings, toolbox, skip_missing=every),
            )
        )
    summary = {task.name: found[task.name] for task in chosen}
    for line in _table(summary):
        click.echo(line)
    click.echo(
        f"\nRecords and summary.json are in {out}; coderv2 eval report {out} makes a page of them.", err=True
    )
    if damaged := suite.damaged(summary):
        raise BadData(f"{', '.join(damaged)}: not run, for what is said above; all else is done")


def _check_used(values: dict[str, Any]) -> None:
    elsewhere = values["endpoint"] is not None or values["answers"] is not None
    if values["dtype"] != "auto" and elsewhere:
        raise InvalidValue(
            "--dtype is of a model that runs here, not of --endpoint or --answers", param="dtype"
        )
    if values["tokenizer"] is not None and not elsewhere:
        why = "--tokenizer goes with --endpoint or --answers; a model that runs here has its own"
        raise InvalidValue(why, param="tokenizer")


def _check_judged(tasks: "Sequence[Task]", values: dict[str, Any]) -> None:
    if values["judge_model"] is not None and values["judge"] is None:
        raise InvalidValue("--judge-model goes with --judge URL, which says where it is", param="judge")
    if values["judge"] is not None and not any(task.refereed for task in tasks):
        raise InvalidValue("--judge is of tasks that a model judges, and none of them is run", param="judge")


def _on_grid(tasks: "Sequence[Task]", **axes: str | None) -> "list[Task]":
    """The tasks, needles with the axes that are given (numbers, commas between them) instead of their own."""
    from coderv2.evaluation import grid
    from coderv2.evaluation.tasks.needle import Needle

    given = {
        name: getattr(grid, name)(_integers(text, name)) for name, text in axes.items() if text is not None
    }
    if given and not any(isinstance(task, Needle) for task in tasks):
        raise InvalidValue(
            "--lengths and --depths are of needle and needle-code, and neither is run", param="lengths"
        )
    return [replace(task, **given) if isinstance(task, Needle) else task for task in tasks]


def _by_leave(tasks: "Sequence[Task]", *, unprotected: bool) -> "list[Task]":
    """The tasks, Defects4J with the leave to run programs with the user's rights or without."""
    from coderv2.evaluation.tasks.defects4j import Defects4j

    return [replace(task, unprotected=unprotected) if isinstance(task, Defects4j) else task for task in tasks]


def _integers(text: str, name: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InvalidValue(f"--{name} {text}: numbers with commas between them", param=name) from None


async def _closing(generators: "list[Generator | None]", work: Any) -> Any:
    try:
        return await work
    finally:
        for generator in filter(None, generators):
            await generator.close()


@dataclass(frozen=True)
class _Bench:
    """What a run works with, made from the command's options."""

    tasks: "Sequence[Task]"
    folder: Path | None
    settings: "Settings"
    values: dict[str, Any]

    @contextmanager
    def open(self) -> "Iterator[tuple[Data, Generator, Toolbox]]":
        """The data, who replies, the sandbox and the judge."""
        from coderv2.evaluation.data import Data
        from coderv2.evaluation.toolbox import Toolbox
        from coderv2.sandbox.judge import Judge
        from coderv2.sandbox.run import best_sandbox

        generator, referee = self._generator(), self._referee()
        judge = Judge(best_sandbox(self.values["unprotected"]))
        with closing(Toolbox(judge, referee)) as toolbox, judge:  # whose end ends what the toolbox waits for
            tokenizer = generator.tokenizer or self._tokenizer()
            yield Data(self.folder, tokenizer=tokenizer, context=generator.context), generator, toolbox

    def _generator(self) -> "Generator":
        from coderv2.evaluation import endpoint, generate

        answers, url = self.values["answers"], self.values["endpoint"]
        if answers is not None and (url or self.values["model"]):
            raise InvalidValue(
                "--answers judges replies that are there: it goes with neither -m nor --endpoint"
            )
        if answers == "canonical":
            by_name = {task.name: task for task in self.tasks}
            return generate.canonical(by_name, lambda name: self.settings.chosen_style(by_name[name]))
        if answers is not None:
            return generate.empty() if answers == "empty" else generate.from_file(Path(answers))
        if url:
            return endpoint.Endpoint(
                url, self.values["model"], key=paths.api_key(), in_flight=self.settings.in_flight
            )
        loaded = loading.load(
            self.values["model"], dtype=self.values["dtype"], max_num_seqs=self.settings.in_flight
        )
        return generate.EngineGenerator(loaded.engine, loaded.name, loaded.folder)

    def _referee(self) -> "Generator | None":
        from coderv2.evaluation.endpoint import Endpoint

        url, model = self.values["judge"], self.values["judge_model"]
        return Endpoint(url, model, key=paths.judge_key(), option="judge") if url else None

    def _tokenizer(self) -> "Tokenizer | None":
        from coderv2.model import hub
        from coderv2.model.loading import open_tokenizer

        name = self.values["tokenizer"]
        if name is None and self.values["answers"] is None:
            return None
        return open_tokenizer(hub.resolve(name))


@eval.command("list")
@_DATA
def list_tasks(data: Path | None) -> None:
    """What there is, what each task needs, and what is ready here."""
    from coderv2.evaluation import suite, tasks
    from coderv2.evaluation.data import Data

    files = Data(data)
    width = max(map(len, tasks.TASKS))
    for task in tasks.TASKS.values():
        needs = suite.lacks(task, files, refereed=False)
        state = "ready" if suite.ready(task, files) else "to be fetched, once it is run"
        told = f"not ready: {'; '.join(needs)}" if needs else state
        click.echo(f"{task.name:{width}}  {task.title} ({task.metric}): {told}")


def _table(summary: dict[str, dict[str, Any]]) -> Iterator[str]:
    """One line for each task."""
    width = max(map(len, summary))
    for name, figures in summary.items():
        if figures["value"] is None:
            yield f"{name:{width}}  not run: {figures['not_run']}"
        else:
            yield (
                f"{name:{width}}  {figures['metric']} {_shown(name, figures['value'])} ± "
                f"{_shown(name, figures['stderr'])} "
                f"({_counted(figures['n'], 'problem')})"
            )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _shown(task: str, value: float) -> str:
    """A rating as it is, a share in percent."""
    from coderv2.evaluation.published import OUT_OF

    return f"{value:.2f}" if OUT_OF.get(task) == 1.0 else f"{100 * value:.1f} %"


@eval.command()
@click.argument("run_dir", metavar="DIR", type=click.Path(path_type=Path))
def report(run_dir: Path) -> None:
    """Write report.md, report.json, report.html and its plots into DIR, a run's --out."""
    from coderv2.evaluation.report import write

    for path in write(run_dir):
        click.echo(path)


@eval.command()
@click.argument("first", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("second", metavar="DIR", type=click.Path(path_type=Path))
def diff(first: Path, second: Path) -> None:
    """Compare two runs problem by problem."""
    from coderv2.evaluation.compare import Incomparable, differences

    for one in differences(first, second):
        if isinstance(one, Incomparable):
            click.echo(f"{one.task}: not compared, for it was judged by {' and by '.join(one.judges)}")
            continue
        click.echo(
            f"{one.task}: {_shown(one.task, one.first)} → {_shown(one.task, one.second)} "
            f"on {_counted(one.both, 'problem')}; "
            f"{len(one.better)} better, {len(one.worse)} worse (p = {one.chance:.3g})"
        )
        for name, (old, new) in one.unlike.items():
            click.echo(f"  ! {name}: {old} in the first, {new} in the second")
        for sign, names in (("+", one.better), ("-", one.worse)):
            for name in names:
                click.echo(f"  {sign} {name}")


@eval.command()
@click.argument("corpus", type=click.Path(path_type=Path))
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@_DATA
def contamination(corpus: Path, tasks: Sequence[str], data: Path | None) -> None:
    """Find problems of TASKs whose words stand in CORPUS: texts or JSON lines, one file or a folder, gzipped or not."""
    from coderv2.evaluation import contamination
    from coderv2.evaluation import tasks as registry
    from coderv2.evaluation.data import Data
    from coderv2.evaluation.run import problems

    files, searched = Data(data), contamination.Corpus(corpus)
    texts = {
        task.name: {problem.id: "\n".join(task.texts(problem)) for problem in problems(task, files)}
        for task in registry.named(tuple(tasks))
    }
    hits = 0
    for hit in contamination.find(texts, searched):
        hits += 1
        click.echo(f"{hit.task} {hit.problem}: {hit.document}: {hit.words}")
    every = [text for problems in texts.values() for text in problems.values()]
    click.echo(f"{hits} of {len(every)} problems stand in {corpus}", err=True)
    if mute := sum(not contamination.searchable(text) for text in every):
        click.echo(f"{mute} have too few words to be looked for", err=True)
    if searched.unsearched:
        names = ", ".join(map(str, searched.unsearched[:5])) + ", …" * (len(searched.unsearched) > 5)
        click.echo(
            f"not searched (no text, or too large): {_counted(len(searched.unsearched), 'file')}: {names}",
            err=True,
        )
