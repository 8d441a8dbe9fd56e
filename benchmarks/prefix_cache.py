"""Time to the first token of a prompt of 2,000 tokens: cold, repeated, and read from disk, on the bundled model."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import record
from coderv2 import LLM, SamplingParams, paths

ROUNDS = 15
LENGTH = 2000
FIRST_TOKEN = SamplingParams(temperature=0, max_tokens=1)


def main() -> None:
    """Every round has a prompt of its own: cold, again, and again in an engine that only has the disk."""
    torch.set_num_threads(paths.threads())
    taken: dict[str, list[float]] = {"cold": [], "repeated": [], "from disk": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        first = _llm(folder)
        prompts = [_prompt(first, number) for number in range(ROUNDS + 1)]
        for prompt in prompts:
            taken["cold"].append(_seconds(first, prompt, cached=0))
            taken["repeated"].append(_seconds(first, prompt, cached=LENGTH - 16))
        later = _llm(folder)
        for prompt in prompts:
            taken["from disk"].append(_seconds(later, prompt, cached=LENGTH - 16))
    cold = statistics.median(taken["cold"][1:])
    rows: list[dict[str, Any]] = []
    for name, seconds in taken.items():
        median = statistics.median(seconds[1:])
        rows.append(
            {"prompt": name, "first token, ms": median * 1e3, "times sooner than cold": cold / median}
        )
    record("prefix_cache", rows, ["torch"])


def _llm(folder: Path) -> LLM:
    return LLM(dtype="float32", max_model_len=4096, cache_tokens=1 << 16, cache_dir=folder)


def _prompt(llm: LLM, number: int) -> list[int]:
    """Code of the standard library, each round another piece."""
    text = Path(statistics.__file__).read_text("utf-8")
    ids = llm.get_tokenizer().encode(text, bos=True)
    return [number + 10, *(ids * 2)[number : number + LENGTH - 1]]


def _seconds(llm: LLM, prompt: list[int], *, cached: int) -> float:
    """Until the engine brings the first token; what it writes to disk comes after that."""
    begin = time.perf_counter()
    llm.engine.submit(prompt, FIRST_TOKEN)
    while not (deltas := llm.engine.step()):
        pass
    taken = time.perf_counter() - begin
    assert deltas[0].num_cached_tokens >= cached
    while llm.engine.save_page():
        pass
    return taken


if __name__ == "__main__":
    main()
