"""`coderv2 doctor`: what this machine has, what fits it, how fast that would be."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coderv2 import paths
from coderv2.cli import options

if TYPE_CHECKING:
    import torch

    from coderv2.engine.fit import Fit, Rehearsal, Size
    from coderv2.engine.machine import Machine


@click.command()
@options.model
def doctor(model: str | None) -> None:
    """Show what this machine has, which models fit it, and the settings to run MODEL with.

    Memory bandwidth and arithmetic are measured for a second or two. A small model is also run for a moment; of a
    large one nothing but its config is read, or fetched.

    \b
    coderv2 doctor
    coderv2 doctor -m deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct
    coderv2 doctor -m lite-q4_k_m.gguf
    """
    import torch

    from coderv2.engine import fit, machine
    from coderv2.model import hub
    from coderv2.model.loading import open_config

    torch.set_num_threads(paths.threads())
    folder = hub.resolve(model, wanted=("config.json",))
    size = fit.Size.of(model or "the bundled model", open_config(folder))
    found = machine.inspect()
    click.echo("\n".join(describe(found)) + "\n")
    released = [fit.best_fit(one, found) for one in fit.RELEASED]
    chosen, small = _choice(folder, size, found)
    click.echo("\n".join(table([chosen, *released])) + "\n")
    click.echo("\n".join(_advice(folder, chosen, found, small=small)))


def describe(machine: "Machine") -> Iterator[str]:
    """The machine, one thing a line."""
    yield f"Processor   {machine.processor}, {machine.cores} cores; {machine.threads} threads for arithmetic"
    yield f"            {' '.join(machine.instruction_sets)}"
    yield f"Memory      {gb(machine.memory)}, {gb(machine.free)} free"
    yield f"GPU         {f'{machine.gpu}, {gb(machine.gpu_memory)}' if machine.gpu else 'none'}"
    for dtype, speed in machine.speeds.items():
        yield (
            f"{_name(dtype):12}{speed.bytes_per_second / 1e9:.1f} GB/s of weights read for one token, "
            f"{speed.flops / 1e9:,.0f} GFLOP/s for many (measured)"
        )


def table(fits: "list[Fit]") -> Iterator[str]:
    """What fits, and the speeds that bandwidth and arithmetic allow."""
    width = max(len(one.size.name) for one in fits)
    yield f"{'model':{width}}  {'format':9}  {'weights':>9}  fits  {'answer':>9}  {'prompt':>9}  tokens/s at best"
    for one in fits:
        yield (
            f"{one.size.name:{width}}  {_format(one):9}  {gb(one.weight_bytes):>9}  "
            f"{'yes' if one.fits else 'no':4}  {one.answer_speed:>9,.1f}  {one.prompt_speed:>9,.1f}"
        )


def _advice(folder: Path, chosen: "Fit", machine: "Machine", *, small: bool) -> Iterator[str]:
    """The settings for the asked model, and how fast it really ran where that was quick to try."""
    from coderv2.engine import fit

    if not chosen.fits:
        short = chosen.weight_bytes + 1024 * chosen.cache_bytes_per_token * 4 - machine.room
        yield f"{chosen.size.name} does not fit: {gb(short)} more free memory is needed in {_format(chosen)}."
        return
    yield from settings(chosen, machine)
    if small:
        dtype = None if chosen.stored else chosen.dtype
        yield from rehearsed(fit.rehearse(folder, dtype, machine.device))


def _choice(path: Path, size: "Size", machine: "Machine") -> "tuple[Fit, bool]":
    """How the model would run, and whether it is small enough to be tried."""
    import torch

    from coderv2.engine import fit
    from coderv2.model import packed_file, weights

    here = path.is_file() or any(path.glob("*.safetensors")) or (path / packed_file.NAME).exists()
    if (stored := _stored_bytes(path, machine.device)) is not None:
        # On the CPU, where quants run as they are.
        small = here and stored < weights.SMALL_BYTES and machine.device == "cpu"
        return fit.fit(size, machine, torch.bfloat16, stored_bytes=stored), small
    dtype = weights.auto_dtype(path, machine.device) if here else None
    return (fit.fit(size, machine, dtype), True) if dtype else (fit.best_fit(size, machine), False)


def _stored_bytes(path: Path, device: str) -> int | None:
    """What weights take that stay as they are in their file; None for others, and where what says it is not here."""
    from coderv2.model import gguf, packed_file
    from coderv2.model.checkpoint import quantisation
    from coderv2.model.loading import is_gguf, is_packed, open_config

    if is_gguf(path):
        return gguf.weight_bytes(path)
    if is_packed(path):
        return packed_file.weight_bytes(path) if (path / packed_file.NAME).exists() else None
    return _fp8_bytes(path, device) if quantisation(open_config(path)) else None


def _fp8_bytes(path: Path, device: str) -> int | None:
    """The same of an FP8 checkpoint; None where it is written out, as without our kernels."""
    from coderv2.engine.offload import Wish
    from coderv2.kernels import cpu
    from coderv2.model import footprint
    from coderv2.model.loading import open_config

    config = open_config(path)
    if device != "cpu":
        return Wish(path).sizes(config).whole(config)
    with ExitStack() as stack:
        found = footprint.open_headers(path, config, stack)
        return None if cpu.kernels is None else footprint.packed_bytes(config, found)


def settings(chosen: "Fit", machine: "Machine") -> Iterator[str]:
    """What an engine takes by itself here."""
    taken = chosen.settings
    cache = chosen.cache_tokens * chosen.cache_bytes_per_token
    yield f"Settings for {chosen.size.name}:"
    dtype = "auto (as stored)" if chosen.stored else _name(chosen.dtype)
    yield f"  dtype {dtype}, device {machine.device}, {machine.threads} threads (CODERV2_THREADS)"
    yield f"  max_model_len {taken.max_model_len}, max_num_seqs {taken.max_running}"
    yield f"  cache_tokens {chosen.cache_tokens} ({gb(cache)}, taken as it fills)"


def rehearsed(speeds: "Rehearsal") -> Iterator[str]:
    """What was tried."""
    yield (
        f"Tried here: {speeds.answer_speed:,.0f} tokens/s of one answer, "
        f"{speeds.prompt_speed:,.0f} tokens/s of a prompt."
    )


def _format(one: "Fit") -> str:
    return "as stored" if one.stored else _name(one.dtype)


def _name(dtype: "torch.dtype") -> str:
    return str(dtype).removeprefix("torch.")


def gb(count: float) -> str:
    """Bytes in gigabytes."""
    return f"{count / 1e9:,.2f} GB" if count < 1e10 else f"{count / 1e9:,.0f} GB"
