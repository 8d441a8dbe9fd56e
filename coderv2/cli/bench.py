"""`coderv2 bench`: how fast a model runs here, beside what the machine allows and beside llama.cpp."""

import datetime
import json
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from coderv2 import __version__, paths
from coderv2.cli import options
from coderv2.cli.doctor import gb
from coderv2.errors import Unsupported

if TYPE_CHECKING:
    from coderv2.engine.bench import Case, Report
    from coderv2.engine.machine import Machine


def _numbers(_: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    least = 0 if parameter.name == "depths" else 1
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() and int(part) >= least for part in parts):
        raise click.BadParameter(f"whole numbers of at least {least} with commas between, not {value!r}")
    return tuple(map(int, parts))


@click.command()
@options.model
@click.option(
    "--prompts", metavar="N,N…", callback=_numbers, help="Lengths of prompts.  [default: 64,512,2048]"
)
@click.option(
    "--depths", metavar="N,N…", callback=_numbers, help="Tokens before an answer.  [default: 0,4096,16384]"
)
@click.option("--batches", metavar="N,N…", callback=_numbers, help="Answers at a time.  [default: 1,4,8,16]")
@click.option(
    "--rounds", type=click.IntRange(1), metavar="N", help="Medians are over N rounds.  [default: 3]"
)
@click.option(
    "--tune",
    is_flag=True,
    help="Instead time tile sizes of the GPU kernels on this GPU and keep the best for later runs; alone.",
)
@options.kv_cache_dtype
@click.option("--quick", is_flag=True, help="One round of the shorter ones.")
@click.option(
    "--peer", is_flag=True, help="Take turns with llama.cpp (llama-cpp-python) on the same GGUF file."
)
@click.option("--peer-python", metavar="PYTHON", help="The Python that has llama_cpp.  [default: this one]")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Keep everything in FILE."
)
def bench(
    model: str | None,
    tune: bool,
    kv_cache_dtype: str,
    quick: bool,
    peer: bool,
    peer_python: str | None,
    json_file: Path | None,
    **given: Any,
) -> None:
    """Measure how fast MODEL runs on this machine.

    Prompts and answers are timed as forward passes, and once through the whole engine; each beside the bound that
    measured memory bandwidth and arithmetic set. Nothing else should run meanwhile. docs/guides/bench.md explains the
    figures.

    \b
    coderv2 bench
    coderv2 bench -m model.gguf --peer --json result.json
    """
    if tune:
        if any([model, quick, peer, kv_cache_dtype != "auto", peer_python, json_file, *given.values()]):
            raise click.UsageError("--tune goes alone")
        _tune()
        return
    import torch

    from coderv2.engine import machine
    from coderv2.engine.bench import QUICK, Bench, Plan
    from coderv2.engine.number_formats import cache_dtype
    from coderv2.model import hub
    from coderv2.model.loading import is_gguf, open_config

    if peer_python is not None and not peer:
        raise click.UsageError("--peer-python is for --peer")
    peer_python = peer_python or sys.executable
    torch.set_num_threads(paths.threads())
    path = hub.resolve(model)
    if peer and not is_gguf(path):
        raise click.UsageError(f"--peer needs a GGUF file, which llama.cpp can read too; {path} is none")
    values = vars(QUICK if quick else Plan()) | {
        name: value for name, value in given.items() if value is not None
    }
    plan = Plan(**values)
    _check_it_can_finish(peer_python if peer else None, json_file)
    seen = machine.look()
    run = Bench(
        path,
        plan,
        paths.threads(),
        _progress,
        peer_python if peer else None,
        cache_dtype=cache_dtype(kv_cache_dtype, "cpu"),
    )
    report = run.run(open_config(path).max_position_embeddings)
    click.echo("\n".join([*heading(report, seen, path), "", *table(report), *remarks(report)]))
    if json_file is not None:
        json_file.write_text(json.dumps(record(report, seen, path, plan), indent=2) + "\n", "utf-8")


def _check_it_can_finish(peer_python: str | None, json_file: Path | None) -> None:
    """Before anything is timed, for then it would be lost."""
    from coderv2.engine.peer import Peer

    if json_file is not None:
        with json_file.open("a"):
            pass
    if peer_python is not None:
        with Peer(peer_python) as peer:
            peer.ask("peak")


def _tune() -> None:
    """At the shapes of DeepSeek-Coder-V2-Lite."""
    import torch

    if not torch.cuda.is_available():
        raise Unsupported(
            "no GPU here: tile sizes are timed on one; without --tune the processor is measured"
        )
    from coderv2.kernels.gpu import trials, tuning

    device = torch.device("cuda", torch.cuda.current_device())
    kinds = trials.kinds(torch.cuda.get_device_capability(device))
    click.echo(f"written: {tuning.tune(trials.LITE, device, kinds=kinds, say=click.echo)}")


def _progress(line: str) -> None:
    click.echo(line, err=True)


def heading(report: "Report", machine: "Machine", path: Path) -> Iterator[str]:
    """Model, machine, bounds, load, memory."""
    formats = ", ".join(f"{name} {gb(size)}" for name, size in report.formats.items())
    yield f"Model       {path}, {gb(report.weight_bytes)} of weights in memory ({formats})"
    yield f"Machine     {machine.processor}, {machine.cores} cores, {machine.threads} threads, {_isa()}"
    for roof in report.roofs:
        threads = f"{roof.threads} thread{'s' * (roof.threads > 1)}"
        yield (
            f"{threads:12}reads {roof.streaming / 1e9:.1f} GB/s in order, {roof.blocks / 1e9:.1f} GB/s in random "
            f"blocks of {roof.block_bytes / 1e6:.2f} MB"
        )
        operations = ", ".join(f"{kind.upper()} {v / 1e9:,.0f}" for kind, v in roof.operations.items())
        yield f"{'':12}multiplies and adds, GOP/s: {operations}"
    yield f"Load        {median(report.ours.loads):.2f} s, memory {gb(report.ours.peak)} at most"
    if report.peer is not None:
        repacks = "repacking weights" if report.peer_repacks else "not repacking, for want of memory"
        yield (
            f"llama.cpp   llama-cpp-python {report.peer_version}, {repacks}; load {median(report.peer.loads):.2f} s, "
            f"memory {gb(report.peer.peak)} at most"
        )


def _isa() -> str:
    from coderv2.kernels import cpu

    return cpu.isa() or "PyTorch"


def table(report: "Report") -> Iterator[str]:
    """One line a case: tokens per second, the bound, the share of it, the peer and the ratio."""
    peer = f"  {'llama.cpp':>10}  {'ratio':>6}" if report.peer else ""
    yield f"{'tokens/s, forward passes':26}{'ours':>10}  {'bound':>10}  {'share':>6}  {'by':10}{peer}".rstrip()
    yield from (_line(report, case).rstrip() for case in report.cases)


def _line(report: "Report", case: "Case") -> str:
    ours, bound = report.ours.speed(case) or 0.0, report.bound(case)
    line = f"{case.name:26}{ours:>10,.1f}  "
    line += (
        f"{bound[0]:>10,.1f}  {ours / bound[0]:>6.0%}  {bound[1]:10}"
        if bound
        else f"{'-':>10}  {'-':>6}  {'':10}"
    )
    theirs = report.peer.speed(case) if report.peer else None
    return f"{line}  {theirs:>10,.1f}  {ours / theirs:>6.2f}" if theirs else line


def remarks(report: "Report") -> Iterator[str]:
    """What went through the engine, and what was left out."""
    if report.engine_missing is not None:
        yield f"Not through the engine: {report.engine_missing}"
    else:
        yield _through_the_engine(report)
    if report.left_out:
        names = ", ".join(case.name for case in report.left_out)
        yield f"Left out, since the model's context is shorter: {names}"


def _through_the_engine(report: "Report") -> str:
    from coderv2.engine.bench import ENGINE_ANSWER

    return (
        f"Through the engine: first token of a prompt after {median(report.engine_first):.2f} s, then "
        f"{ENGINE_ANSWER / median(report.engine_rest):,.1f} tokens/s"
    )


def record(report: "Report", machine: "Machine", path: Path, plan: Any) -> dict[str, Any]:
    """Everything, as it is kept."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": {
            "path": str(path),
            "file_bytes": path.stat().st_size if path.is_file() else None,
            "weight_bytes": report.weight_bytes,
            "formats": report.formats,
        },
        "machine": {
            "processor": machine.processor,
            "cores": machine.cores,
            "threads": machine.threads,
            "instruction_sets": machine.instruction_sets,
            "memory": machine.memory,
            "kernels": _isa(),
            "system": platform.platform(),
        },
        "versions": {
            "coderv2": __version__,
            "python": platform.python_version(),
            "torch": version("torch"),
            "llama_cpp": report.peer_version,
        },
        "plan": vars(plan),
        "roofs": [vars(roof) for roof in report.roofs],
        "load_seconds": report.ours.loads,
        "peak_bytes": report.ours.peak,
        "engine": {"first_token_seconds": report.engine_first, "answer_seconds": report.engine_rest},
        "peer": vars(report.peer) | {"seconds": None, "repacks": report.peer_repacks}
        if report.peer
        else None,
        "cases": [_case(report, case) for case in report.cases],
        "left_out": [case.name for case in report.left_out],
    }


def _case(report: "Report", case: "Case") -> dict[str, Any]:
    bound = report.bound(case)
    work = report.work[case]
    return {
        "name": case.name,
        **vars(case),
        "seconds": report.ours.seconds[case],
        "tokens_per_second": report.ours.speed(case),
        "bytes_per_pass": work.bytes,
        "multiply_adds_per_pass": work.multiply_adds,
        "bound_tokens_per_second": bound[0] if bound else None,
        "bound_by": bound[1] if bound else None,
        "peer_seconds": report.peer.seconds.get(case) if report.peer else None,
        "peer_tokens_per_second": report.peer.speed(case) if report.peer else None,
    }
