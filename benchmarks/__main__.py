"""Every benchmark, one after another: `python -m benchmarks`, or some of them by name."""

import sys

from benchmarks import (
    batching,
    determinism,
    drafts,
    engine_overhead,
    fim_reuse,
    generation,
    gpu,
    loading,
    prefix_cache,
)

BENCHMARKS = {
    "batching": batching.main,
    "determinism": determinism.main,
    "drafts": drafts.main,
    "engine_overhead": engine_overhead.main,
    "fim_reuse": fim_reuse.main,
    "generation": generation.main,
    "gpu": gpu.main,
    "loading": loading.main,
    "prefix_cache": prefix_cache.main,
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
