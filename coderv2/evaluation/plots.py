"""The README's two figures with our model in them: the bars of the benchmarks, the needle's grid."""

import io
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from coderv2.errors import Unsupported
from coderv2.evaluation.grid import cells
from coderv2.evaluation.published import FIGURE, FIGURE_TASKS, in_table_units
from coderv2.evaluation.score import Item

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LABELS = ("HumanEval", "MBPP+", "MATH", "GSM8K", "Aider", "LiveCodeBench", "SWE-Bench")
_OURS = "this run"


def bars(summary: dict[str, dict[str, Any]]) -> bytes:
    """`performance.png` as PNG. A task that was not run has no bar of ours."""
    ours = tuple(_percent(task, summary) for task in FIGURE_TASKS)
    series = {**FIGURE, _OURS: ours}
    figure = _figure(11)
    axes = figure.subplots()
    width = 0.85 / len(series)
    for number, (model, values) in enumerate(series.items()):
        places = np.arange(len(values)) - 0.425 + (number + 0.5) * width
        heights = [0.0 if value is None else value for value in values]
        drawn = axes.bar(places, heights, width, label=model, hatch="//" if model == _OURS else None)
        axes.bar_label(drawn, ["" if v is None else f"{v:.0f}" for v in values], fontsize=6)
    axes.set_xticks(np.arange(len(_LABELS)), _LABELS)
    axes.set(ylabel="Accuracy (%)", ylim=(0, 100))
    axes.legend(ncols=4, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.08))
    return _png(figure)


def grid(items: Sequence[Item]) -> bytes:
    """`long_context.png` as PNG: length across, depth down, 1 to 10 by the share that was found."""
    found = {cell: np.mean(shares) for cell, shares in cells(items).items()}
    lengths, depths = sorted({cell[0] for cell in found}), sorted({cell[1] for cell in found})
    scores_DL = np.array([[1 + 9 * found.get((l, d), np.nan) for l in lengths] for d in depths])
    figure = _figure(9)
    axes = figure.subplots()
    image = axes.imshow(scores_DL, cmap="RdYlGn", vmin=1, vmax=10, aspect="auto")
    axes.set_xticks(range(len(lengths)), [f"{round(length / 1000)}K" for length in lengths])
    axes.set_yticks(range(len(depths)), [str(depth) for depth in depths])
    axes.set_xticks(np.arange(len(lengths) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(depths) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="minor", length=0)
    axes.set(xlabel="Context length (tokens)", ylabel="Document depth (%)", title="Needle in a haystack")
    figure.colorbar(image, ax=axes, label="Score")
    return _png(figure)


def _percent(task: str, summary: dict[str, dict[str, Any]]) -> float | None:
    value = summary.get(task, {}).get("value")
    return None if value is None else in_table_units(task, value)


def _figure(width: float) -> "Figure":
    """An empty one, so many inches wide. Raises Unsupported without matplotlib."""
    if find_spec("matplotlib") is None:
        raise Unsupported("a report's plots need matplotlib: pip install matplotlib")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, 4.5), layout="constrained")


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()
