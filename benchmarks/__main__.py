"""Every benchmark, one after another: `python -m benchmarks`, or some of them by name."""

import sys
from collections.abc import Callable

from benchmarks import (
    batching,
    cache_quality,
    cpu_kernels,
    determinism,
    door_overhead,
    drafts,
    engine_overhead,
    eval_overhead,
    fim_reuse,
    generation,
    gguf_encoding,
    gpu,
    gpu_quality,
    judging,
    loading,
    needle_memory,
    prefix_cache,
    quantisation,
)

BENCHMARKS: dict[str, Callable[[], object]] = {
    "batching": batching.main,
    "cache_quality": cache_quality.main,
    "cpu_kernels": cpu_kernels.main,
    "determinism": determinism.main,
    "door_overhead": door_overhead.main,
    "drafts": drafts.main,
    "engine_overhead": engine_overhead.main,
    "eval_overhead": eval_overhead.main,
    "fim_reuse": fim_reuse.main,
    "generation": generation.main,
    "gguf_encoding": gguf_encoding.main,
    "gpu": gpu.main,
    "gpu_quality": gpu_quality.main,
    "judging": judging.main,
    "loading": loading.main,
    "needle_memory": needle_memory.main,
    "prefix_cache": prefix_cache.main,
    "quantisation": quantisation.main,
}


def main(names: list[str]) -> None:
    """Runs the named benchmarks, all when none is named."""
    unknown = set(names) - BENCHMARKS.keys()
    if unknown:
        sys.exit(f"no benchmark called {min(unknown)}; there are {', '.join(BENCHMARKS)}")
    for name in names or BENCHMARKS:
        BENCHMARKS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
