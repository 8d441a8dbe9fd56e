"""Tile sizes by trying, on this GPU and for the shapes of one model.

Tuned are both launches of a layer's experts (plain, fp8, int4; from 1 token to thousands), single matrices in fp8 and
int4, and the dense layer; not attention, and not `fp8_wide`. Kernels are compiled first, by as many processes as there
are processors, and then timed one by one. The table is written after each product: what ends a run loses nothing, and
the next one goes on there. Delete the table to measure anew.

For Lite that is 728 launches of 407 kernels. Compiling them all for an H200 took 225 s of processor time (two cores of
an EPYC of 2019, no GPU), so 15 s with 16 processors; each launch is timed for at most 0.15 s, most for a few
hundredths. How long that takes on a GPU in all is not measured.
"""

import logging
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import torch
from triton.runtime.jit import JITFunction

from coderv2.kernels.gpu import tiles, timing, trials
from coderv2.kernels.gpu.timing import Calls
from coderv2.kernels.gpu.trials import Case, Layer

logger = logging.getLogger(__name__)
Timed = Callable[[Calls], float]


@torch.inference_mode()
def tune(
    layer: Layer,
    device: torch.device,
    *,
    kinds: tuple[str, ...],
    timed: Timed = timing.on_gpu,
    ahead: bool = True,
    say: Callable[[str], None] = print,
    written: Callable[[Path], None] = lambda _: None,
) -> Path:
    """The path of the table, which has the fastest tile of every product then; `written` hears of each writing."""
    card = tiles.card(device)
    table = tiles.Table.read(card.name)
    todo = [case for case in trials.cases(layer, kinds) if case.key not in table.tiles]
    launches = sum(len(untried(case, table, card)) for case in todo)
    say(f"{len(todo)} products to tune, {launches} launches to time")
    if ahead and todo:
        say(f"{compile_ahead(todo, table, card)} compiled")
    for case in todo:
        calls = case.calls(device)
        if found := best_tile(case, calls, untried(case, table, card), table, timed):
            tile, seconds = found
            table.tiles[case.key], table.microseconds[case.key] = tile, seconds * 1e6
            say(f"{case.key}: {seconds * 1e6:.1f} µs, {tile}")
        else:
            say(f"{case.key}: no tile runs")
        written(table.write())
    return table.write()


def untried(case: Case, table: tiles.Table, card: tiles.Card) -> list[tiles.Tile]:
    """Candidates that have not been refused before."""
    able = trials.candidates(case.op, case.kind, case.rows, card.shared)
    return [tile for tile in able if _trial(case, tile) not in table.refused]


def _trial(case: Case, tile: tiles.Tile) -> str:
    return f"{case.key}: {tile}"


def best_tile(
    case: Case, calls: Calls, able: Sequence[tiles.Tile], table: tiles.Table, timed: Timed
) -> tuple[tiles.Tile, float] | None:
    """The fastest of those that run, and its seconds. What does not run is noted in the table."""
    found: list[tuple[float, tiles.Tile]] = []
    for tile in able:
        try:
            with tiles.forced({case.key: tile}):
                found.append((timed(calls), tile))
        except Exception as error:  # out of registers or shared memory, or whatever the compiler says
            table.refused[_trial(case, tile)] = f"{type(error).__name__}: {error}"[:500]
            table.write()
            logger.warning("%s does not run: %r", _trial(case, tile), error)
            if not timing.answers():
                raise
    if not found:
        return None
    seconds, fastest = min(found, key=lambda pair: pair[0])
    return fastest, seconds


def compile_ahead(todo: Sequence[Case], table: tiles.Table, card: tiles.Card) -> int:
    """Compiles what is to be timed into Triton's cache on the disk, in other processes; for how many it worked."""
    done = 0
    most = min(len(os.sched_getaffinity(0)), len(todo))
    with ProcessPoolExecutor(most, multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(compile_only, case, untried(case, table, card), card) for case in todo]
        for job in as_completed(jobs):
            if error := job.exception():
                logger.warning("not compiled ahead: %r", error)
            else:
                done += job.result()
    return done


def compile_only(case: Case, able: Sequence[tiles.Tile], card: tiles.Card) -> int:
    """In a process of its own: every launch compiles and does no more, so numbers may be any, and lie anywhere."""
    JITFunction.__getitem__ = lambda kernel, grid: partial(kernel.run, grid=grid, warmup=True)
    trials.filled = lambda numbers: numbers
    tiles.card = lambda _: card  # type: ignore[assignment]
    call = case.calls(torch.device("cpu"))[0]
    return sum(_compiles(case, tile, call) for tile in able)


def _compiles(case: Case, tile: tiles.Tile, call: Callable[[], object]) -> bool:
    try:
        with tiles.forced({case.key: tile}):
            call()
    except Exception as error:  # it comes again, and is kept, when this is timed
        logger.warning("%s does not compile: %r", _trial(case, tile), error)
        return False
    return True
