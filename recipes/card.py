"""The bundled model's card: what was measured, put into words."""

import json
import math
import platform
import statistics
from pathlib import Path
from typing import Any

import torch

from coderv2.data import shards
from coderv2.evaluation import suite
from coderv2.evaluation.report import shown
from coderv2.model.transformer import Transformer
from coderv2.training import checkpoint

TEMPLATE = Path(__file__).parent / "model_card.md"


def write(path: Path, figures: dict[str, Any]) -> None:
    """The template with the figures of `bundled.measure` in it."""
    rows = "\n".join(f"| bits per byte, {name} | {bits:.3f} |" for name, bits in figures["bits"].items())
    scored = benchmarks(path.parent.parent / "benchmarks")
    text = TEMPLATE.read_text(encoding="utf-8").format(**figures, bits_rows=rows, benchmarks=scored)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def benchmarks(run: Path) -> str:
    """The scores of `coderv2 eval all -m MODEL --out RUN`, as a table, and what could not be run."""
    if not (run / suite.SUMMARY).exists():
        return (
            f"No benchmarks were run on these weights (`coderv2 eval all -m {run.parent}/model --out {run}`, "
            f"then `python -m recipes.bundled --out {run.parent} --card`)."
        )
    summary = suite.read(run)
    done = {name: figures for name, figures in summary.items() if figures["value"] is not None}
    rows = [
        f"| {f['title']} | {f['metric']} | {f['prompt']} | {shown(name, f['value'])} "
        f"| {shown(name, f['low'])} to {shown(name, f['high'])} | {f['n']} | {f['truncated']} |"
        for name, f in done.items()
    ]
    head = "| task | metric | prompt | score | 95 % interval | problems | cut off |\n|---|---|---|---|---|---|---|"
    missing = ", ".join(f["title"] for f in summary.values() if f["value"] is None)
    return (
        "\n".join([head, *rows]) + f"\n\nNot run, for want of data, a tool or a judge: {missing or 'none'}."
    )


def machine() -> str:
    """What the run was made on."""
    if torch.cuda.is_available():
        return f"one {torch.cuda.get_device_name()}"
    return f"{torch.get_num_threads()} threads of a CPU ({platform.machine()}), shared with other programs"


def active_parameters(model: Transformer) -> int:
    """Weights that work on one token: all but the routed experts that were not chosen."""
    idle = 1 - model.config.num_experts_per_tok / model.config.n_routed_experts
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    return sum(sizes.values()) - int(idle * sum(size for name, size in sizes.items() if ".experts." in name))


def run_figures(out: Path) -> dict[str, float]:
    """What the runs' states and logs say."""
    tokens = shards.Shard(out / "documents").tokens
    runs = {phase: checkpoint.load(out / phase) for phase in ("pretrain", "sft", "holes")}
    figures: dict[str, float] = {"epoch_tokens": tokens}
    for phase, saved in runs.items():
        if saved is not None:
            progress = saved.progress
            figures |= {f"{phase}_tokens": progress.tokens, f"{phase}_minutes": progress.seconds / 60}
            figures |= {f"{phase}_steps": progress.step, f"{phase}_loss": last_loss(out / phase)}
    return figures | {"epochs": figures["pretrain_tokens"] / tokens}


def last_loss(folder: Path) -> float:
    """Mean over the last ten steps of a run's log; no number for a run of no steps."""
    log = folder / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    losses = [line["loss"] for line in map(json.loads, lines) if "loss" in line][-10:]
    return statistics.fmean(losses) if losses else math.nan
