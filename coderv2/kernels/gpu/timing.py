"""How long work on a GPU takes, by the GPU's own clock."""

import time
from collections.abc import Callable

import torch

SECONDS = 0.02
"""How long something is timed."""


def on_gpu(run: Callable[[], object]) -> float:
    """Seconds of one run, the median of as many as SECONDS hold, after one that compiles."""
    run()
    torch.cuda.synchronize()
    times: list[float] = []
    until = time.perf_counter() + SECONDS
    while not times or time.perf_counter() < until:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(float(begin.elapsed_time(end)) / 1000)
    return sorted(times)[len(times) // 2]
