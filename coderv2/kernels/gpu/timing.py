"""How long work on a GPU takes, by the GPU's own clock.

A kernel of a few microseconds takes less time than Python needs to start it. So many calls are recorded as one CUDA
graph, and its replays are timed. What is read each time would also stay in the cache of the GPU, where weights of a
real model, which has more of them than fit, do not: so callers bring several calls that do the same with other weights.
"""

from collections.abc import Callable, Sequence
from itertools import cycle, islice

import torch

Calls = Sequence[Callable[[], object]]
"""The same work, on data of its own each: together larger than the cache where one alone is not."""
COLD = 128 << 20
"""Bytes that no GPU's cache holds: an H200 has 60 MB."""
CALLS = 20
"""In a graph, at least; fewer where they take long."""
SECONDS = 0.02
"""How long a replay takes at most, unless one call of each takes longer."""
REPLAYS = 5


def copies(size: int) -> int:
    """How many pieces of data of `size` bytes are COLD together."""
    return min(-(-COLD // max(size, 1)), 256)


def on_gpu(calls: Calls) -> float:
    """Seconds of one call, from replays of a graph of many. The calls ask nothing of the host."""
    many = _enough(calls)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in many:
            call()
    return _median(graph.replay) / len(many)


def eagerly(calls: Calls) -> float:
    """The same for calls that no graph can hold: one after another, and where the GPU waits for the host, that too."""
    many = _enough(calls)

    def run() -> None:
        for call in many:
            call()

    return _median(run) / len(many)


def _enough(calls: Calls) -> Calls:
    """Each once, to compile and to see how long one takes; then as many of them as are worth timing together."""
    for call in calls:
        call()
    once = _seconds(calls[0])
    most = max(int(SECONDS / once), 1)
    return list(islice(cycle(calls), min(max(CALLS, len(calls)), most)))


def _median(run: Callable[[], object]) -> float:
    run()
    return sorted(_seconds(run) for _ in range(REPLAYS))[REPLAYS // 2]


def _seconds(run: Callable[[], object]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1000


def answers() -> bool:
    """False where an earlier error has left the GPU unusable to this process."""
    if not torch.cuda.is_available():
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
