"""A run as a page: our column beside the published tables, in Markdown, JSON and HTML with plots."""

import base64
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coderv2.evaluation import alike, grid, plots, records, suite
from coderv2.evaluation.published import FULL, LITE, TABLES, Table, in_table_units
from coderv2.evaluation.score import Item
from coderv2.evaluation.storing import put
from coderv2.evaluation.tasks import TASKS

Cells = list[list[str]]
_MODEL = ("checkpoint", "template", "endpoint", "answers")


@dataclass(frozen=True)
class Section:
    """A heading with a table below it."""

    title: str
    cells: Cells
    """The first row names the columns."""
    notes: tuple[str, ...] = ()


def write(run: Path) -> list[Path]:
    """report.md, report.json and report.html beside the summary; returns them. Raises ServiceError for a full disk."""
    summary = suite.read(run)
    sections = list(_sections(summary))
    grids = _grids(run)
    pictures = _pictures(summary, grids)
    made = {
        "report.md": markdown(sections, list(pictures)),
        "report.json": json.dumps(as_json(summary), indent=2, ensure_ascii=False) + "\n",
        "report.html": page(sections, pictures),
    }
    tables = {f"{name}.csv": grid.as_csv(items) for name, items in grids.items()}
    files = {**{name: text.encode() for name, text in made.items()}, **pictures, **tables}
    for name, content in files.items():
        put(run / name, content)
    return [run / name for name in files]


def as_json(summary: suite.Summary) -> dict[str, Any]:
    """Each task's figures with the published ones, and what is comparable."""
    return {
        name: {**figures, "published": _published(name), "unlike_published": _unlike(name, figures)}
        for name, figures in summary.items()
    }


def markdown(sections: Sequence[Section], pictures: Sequence[str]) -> str:
    """The report as Markdown."""
    lines = ["# Evaluation", ""]
    for section in sections:
        head, *rows = section.cells
        lines += [f"## {section.title}", "", _row(head), _row(["---"] * len(head)), *map(_row, rows), ""]
        lines += [f"- {note}" for note in section.notes] + [""] * bool(section.notes)
    return "\n".join(lines + [f"![{name}]({name})\n" for name in pictures])


def page(sections: Sequence[Section], pictures: Mapping[str, bytes]) -> str:
    """The report as one HTML file that needs nothing else."""
    body = "".join(
        f"<h2>{html.escape(s.title)}</h2>{_html_table(s.cells)}{_html_notes(s.notes)}" for s in sections
    )
    images = "".join(
        f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(image).decode()}">'
        for name, image in pictures.items()
    )
    return f"<!doctype html><meta charset=utf-8><title>Evaluation</title>{_STYLE}<h1>Evaluation</h1>{body}{images}\n"


_STYLE = (
    "<style>body{font:15px/1.5 system-ui;max-width:70em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}"
    "td,th{padding:.2em .7em;border-bottom:1px solid "
    "#ddd;text-align:left}.n{text-align:right;white-space:nowrap}td:first-child{white-space:nowrap}div{overflow-x:auto}img{max-width:100%}</style>"
)


def _sections(summary: suite.Summary) -> Iterator[Section]:
    yield Section("All tasks", _overview(summary), tuple(_notes(summary)))
    for table in TABLES:
        if any(task in summary for task in table.tasks):
            yield Section(table.title, _beside(table, summary))
    measured = {name: figures for name, figures in summary.items() if figures["value"] is not None}
    yield Section("How it was measured", _settings(measured))
    if further := list(_further(measured)):
        note = "Shares are from 0 to 1, ratings as the judge gave them; what is counted is whole."
        yield Section("Further figures", [["task", "figure", "value"], *further], (note,))
    missing = [[name, figures["not_run"]] for name, figures in summary.items() if figures["value"] is None]
    if missing:
        yield Section("Not run", [["task", "it needs"], *missing])


def _overview(summary: suite.Summary) -> Cells:
    head = [
        "task",
        "metric",
        "score",
        "95 % interval",
        "problems",
        "samples",
        "prompt",
        "cut off",
        "failures",
    ]
    rows = [
        [
            figures["title"], figures["metric"], shown(name, figures["value"]),
            f"{shown(name, figures['low'])} to {shown(name, figures['high'])}", str(figures["n"]),
            str(figures["samples"]), figures["prompt"], str(figures["truncated"]), _reasons(figures["reasons"]),
        ]
        for name, figures in summary.items()
        if figures["value"] is not None
    ]  # fmt: skip
    return [head, *rows]


def _notes(summary: suite.Summary) -> Iterator[str]:
    run = [figures for figures in summary.values() if figures["value"] is not None]
    yield f"Model: {', '.join(sorted(set(map(_model, run)))) or 'none'}."
    for judge in sorted({figures["judge"] for figures in run if figures.get("judge")}):
        rated = [figures["title"] for figures in run if figures.get("judge") == judge]
        yield f"Judged by {judge}: {', '.join(rated)}. Numbers of two judges are not to be compared."
    limited = [f"{figures['title']} ({figures['n']})" for figures in run if figures["limit"]]
    if limited:
        yield f"Only some of the problems (--limit), so not comparable item by item: {', '.join(limited)}."
    yield from (f"{figures['title']}: {figures['note']}" for figures in run if figures["note"])


def _settings(measured: suite.Summary) -> Cells:
    """One row for each task; what was left to the benchmark's protocol is called so."""
    named = {"tokenizer": "tokenizer", "sandbox": "sandbox", "judge": "judge"}
    protocols = {"temperature": "temperature", "top-p": "top_p", "max tokens": "max_tokens"}
    rows = [
        [
            figures["title"], _comparable(name, figures), figures["prompt"], str(figures["seed"]),
            *(_or(figures.get(key), "the protocol's") for key in protocols.values()),
            *(_or(figures.get(key), "-") for key in named.values()),
        ]
        for name, figures in measured.items()
    ]  # fmt: skip
    return [["task", "as published", "prompt", "seed", *protocols, *named], *rows]


def _or(value: Any, otherwise: str) -> str:
    return otherwise if value is None else str(value)


def _unlike(name: str, figures: Mapping[str, Any]) -> list[str] | None:
    """None where nothing was measured, or nothing was published."""
    measured = figures["value"] is not None and alike.is_published(name)
    return alike.unlike(name, figures) if measured else None


def _comparable(name: str, figures: Mapping[str, Any]) -> str:
    differences = _unlike(name, figures)
    if differences is None:
        return "not published"
    return f"no: {'; '.join(differences)}" if differences else "yes"


def _further(measured: suite.Summary) -> Iterator[list[str]]:
    """pass@k, maj@n, turns, subjects, whatever a task has beside its number."""
    for figures in measured.values():
        for name, value in {**figures["others"], **figures["groups"]}.items():
            yield [figures["title"], name, f"{value:.4g}"]


def _model(figures: Mapping[str, Any]) -> str:
    """Its name, with what tells it from others of that name."""
    own = [f"{name} {figures[name]}" for name in _MODEL if figures.get(name)]
    return f"{figures['model']} ({', '.join(own)})" if own else str(figures["model"])


def _beside(table: Table, summary: suite.Summary) -> Cells:
    """A published table with a row of ours below."""
    titles = [TASKS[task].title for task in table.tasks]
    ours = [shown(task, summary[task]["value"]) if task in summary else "" for task in table.tasks]
    rows = [[model, *map(_published_cell, numbers)] for model, numbers in table.rows.items()]
    return [["model", *titles], *rows, ["this run", *ours]]


def shown(task: str, value: float | None) -> str:
    """A value as the published table writes it."""
    return "not run" if value is None else f"{in_table_units(task, value):.1f}"


def _published_cell(value: float | None) -> str:
    """With one decimal, or with the two, or none, that were published."""
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) and round(value, 1) == value else f"{value:g}"


def _published(task: str) -> dict[str, float | None]:
    for table in TABLES:
        if task in table.tasks:
            column = table.tasks.index(task)
            return {model: numbers[column] for model, numbers in table.rows.items() if model in (LITE, FULL)}
    return {}


def _reasons(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in reasons.items() if name != "passed")


def _grids(run: Path) -> dict[str, list[Item]]:
    """The samples of the needles that were run."""
    paths = {name: run / f"{name}.jsonl" for name in ("needle", "needle-code")}
    logs = {name: records.read(path).samples for name, path in paths.items() if path.exists()}
    return {name: list(map(records.item, samples)) for name, samples in logs.items() if samples}


def _pictures(summary: suite.Summary, grids: Mapping[str, Sequence[Item]]) -> dict[str, bytes]:
    drawn = {f"{name}.png": plots.grid(items) for name, items in grids.items()}
    return {"performance.png": plots.bars(summary), **drawn}


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _html_table(cells: Cells) -> str:
    head, *body = cells
    lines = [f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr>"]
    lines += [f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in body]
    return f"<div><table>{''.join(lines)}</table></div>"


def _html_cell(cell: str) -> str:
    """Numbers to the right."""
    kind = " class=n" if cell[:1].isdecimal() or cell in ("-", "not run", "") else ""
    return f"<td{kind}>{html.escape(cell)}</td>"


def _html_notes(notes: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(note)}</li>' for note in notes)}</ul>" if notes else ""
