"""`coderv2 plan`: what goes to the GPU and what to RAM when the GPU is too small, and the speed to expect of it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coderv2 import paths
from coderv2.cli import options
from coderv2.cli.doctor import gb
from coderv2.errors import InvalidValue

if TYPE_CHECKING:
    from coderv2.engine.expected import Expected, Sides
    from coderv2.engine.offload import Wish
    from coderv2.model.placement import Plan
    from coderv2.model.usage import Usage

_GIGA = click.FloatRange(min=0, min_open=True)


@click.command()
@options.model
@click.option(
    "--gpu-memory",
    metavar="SIZE",
    help="Of the GPU, for example 24G.  [default: what is free on the GPU here]",
)
@click.option("--ram", metavar="SIZE", help="For experts, for example 64G.  [default: what is free here]")
@options.dtype
@click.option("--quantization", type=click.Choice(["fp8", "int4"]), help="Weights rounded on load.")
@click.option("--max-model-len", type=int, metavar="N", help="Tokens that the cache must hold at least.")
@click.option(
    "--expert-usage",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Counts of which experts are used most.  [default: expert_usage.json of the model's folder, if any]",
)
@click.option(
    "--count",
    is_flag=True,
    help="First count, in a pass over code on the CPU: writes the counts to --expert-usage or the model's folder.",
)
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help="With --count: count on this.  [default: Python's library]",
)
@click.option("--gpu-bandwidth", type=_GIGA, metavar="GB/S", help="Of the GPU's memory.  [default: measured]")
@click.option("--gpu-tflops", type=_GIGA, metavar="N", help="Of the GPU in bfloat16.  [default: measured]")
@click.option(
    "--ram-bandwidth", type=_GIGA, metavar="GB/S", help="That the CPU reads.  [default: measured here]"
)
@click.option("--cpu-gflops", type=_GIGA, metavar="N", help="Of the CPU.  [default: measured here]")
@click.option(
    "--link-bandwidth",
    type=_GIGA,
    metavar="GB/S",
    help="Between RAM and GPU, one way.  [default: measured, or 25 (PCIe 4) where no GPU is]",
)
def plan(model: str | None, count: bool, text: Path | None, **given: Any) -> None:
    """Show what of MODEL goes to a GPU of a given size and what to RAM, and how fast that can be.

    Of a hub name nothing but its config is fetched. Speeds are bounds: bytes over bandwidth for an answer, operations
    over arithmetic for a prompt, the slower side of each layer. Without a GPU here, give what it reaches.

    \b
    coderv2 plan -m deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct --gpu-memory 12G --gpu-bandwidth 500 --gpu-tflops 60
    coderv2 plan -m lite-folder --count
    """
    from coderv2.engine import expected, offload
    from coderv2.engine.settings import EngineSettings
    from coderv2.model import hub, usage
    from coderv2.model.loading import open_config

    folder = hub.resolve(model) if count else hub.resolve(model, wanted=("config.json", usage.NAME))
    wish = _wish(folder, given)
    if text is not None and not count:
        raise InvalidValue("--text says what to count on, so it goes with --count")
    if count:
        _check_writable(wish.usage_file, given["expert_usage"])
        click.echo(f"written: {offload.count_on_text(wish, text)}", err=True)
    elif given["expert_usage"] is not None and not wish.usage_file.is_file():
        raise InvalidValue(f"--expert-usage {wish.usage_file}: no such file", param="expert_usage")
    config = open_config(folder)
    settings = EngineSettings(max_model_len=given["max_model_len"])
    budget, ram = _room(given["gpu_memory"], "cuda"), _room(given["ram"], "cpu")
    made = offload.decide(wish, settings, budget, ram)
    click.echo("\n".join(describe(made, wish.counts(config))))
    sides = _sides(given)
    if sides is None:
        click.echo("Speed       unknown: without a GPU here give --gpu-bandwidth and --gpu-tflops")
        return
    click.echo("\n".join(speeds(expected.expect(config, made, sides, wish.counts(config)), sides)))


def _check_writable(path: Path, given: Path | None) -> None:
    """Before anything is counted."""
    if given is None and path.parent == paths.bundled_model():
        why = "--count for the bundled model needs --expert-usage FILE: the installed package stays as it is"
        raise InvalidValue(why, param="expert_usage")
    if not os.access(path.parent, os.W_OK):
        raise InvalidValue(f"{path.parent} cannot be written: name another place with --expert-usage FILE")


def _wish(folder: Path, given: dict[str, Any]) -> "Wish":
    import torch

    from coderv2.engine.offload import Wish

    dtype = None if given["dtype"] == "auto" else getattr(torch, given["dtype"])
    return Wish(folder, dtype, given["quantization"], usage=given["expert_usage"])


def _room(text: str | None, device: str) -> int:
    import torch

    from coderv2.engine.machine import free_bytes
    from coderv2.engine.offload import memory_bytes

    if text is not None:
        return memory_bytes(text)
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidValue("no GPU here: say how much memory it has, --gpu-memory 24G", param="gpu_memory")
    return free_bytes(torch.device(device))


def _sides(given: dict[str, Any]) -> "Sides | None":
    """What was given, and for the rest what is measured here; None where the GPU's share is neither."""
    import torch

    from coderv2.engine import expected

    wanted = {
        "device_bytes": (given["gpu_bandwidth"], 1e9),
        "device_operations": (given["gpu_tflops"], 1e12),
        "ram_bytes": (given["ram_bandwidth"], 1e9),
        "cpu_operations": (given["cpu_gflops"], 1e9),
        "link_bytes": (given["link_bandwidth"], 1e9),
    }
    known = {name: value * unit for name, (value, unit) in wanted.items() if value is not None}
    if not torch.cuda.is_available() and not {"device_bytes", "device_operations"} <= known.keys():
        return None
    return expected.sides(known)


def describe(made: "Plan", counts: "Usage | None") -> Iterator[str]:
    """What goes where, one thing a line."""
    placement, sizes = made.placement, made.sizes
    how = "whole layers first: nothing was counted" if counts is None else "the most used"
    yield f"GPU         {gb(made.on_device)} of {gb(made.budget)}"
    yield f"  weights   {gb(sizes.fixed)} that every token uses"
    yield f"  experts   {gb(made.near)}: {placement.count:,} of {placement.total:,} ({how})"
    yield f"  cache     {gb(made.cache)}: {made.cache_tokens:,} tokens"
    yield f"  passes    {gb(made.work)} for what they need meanwhile, and to spare (estimated)"
    yield f"RAM         {gb(made.in_ram)}: {placement.total - placement.count:,} experts"


def speeds(expected: "Expected", sides: "Sides") -> Iterator[str]:
    """What to expect, and of what."""
    yield (
        f"Speed       {expected.answer:,.1f} tokens/s of one answer, {expected.prompt:,.0f} of prompts at best; the "
        f"GPU serves {expected.near:.0%} of the experts' work"
    )
    yield (
        f"  of        GPU {sides.device_bytes / 1e9:,.0f} GB/s, {sides.device_operations / 1e12:,.0f} TFLOP/s; RAM "
        f"{sides.ram_bytes / 1e9:,.1f} GB/s, CPU {sides.cpu_operations / 1e9:,.0f} GFLOP/s; link "
        f"{sides.link_bytes / 1e9:,.0f} GB/s"
    )
