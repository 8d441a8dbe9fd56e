"""Tokens per second of many requests together beside one alone, on the bundled model; transformers in the same run."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks import peer
from benchmarks.record import interleaved, record
from coderv2 import LLM, paths

ROUNDS = 7
NEW = 96
PROMPT = 32
BATCHES = (1, 2, 4, 8, 16, 32)


def main() -> None:
    """Greedy, float32, ending only at the length; every round runs all sizes of ours and of theirs."""
    torch.set_num_threads(paths.threads())
    llm, other = LLM(dtype="float32", enable_prefix_caching=False, draft_tokens=0), peer.transformers_model()
    runs: dict[str, Callable[[], object]] = {}
    for batch in BATCHES:
        ids = peer.prompts(batch, PROMPT)
        runs[f"ours {batch}"] = peer.ours(llm, ids, NEW)
        runs[f"theirs {batch}"] = peer.theirs(other, ids, NEW)
    seconds = interleaved(runs, ROUNDS)
    rows: list[dict[str, Any]] = []
    for batch in BATCHES:
        ours, theirs = (batch * NEW / seconds[f"{who} {batch}"] for who in ("ours", "theirs"))
        rows.append({
            "requests": batch,
            "ours, tokens/s": ours,
            "times one": ours * seconds["ours 1"] / NEW,
            "transformers, tokens/s": theirs,
            "ratio": ours / theirs,
        })  # fmt: skip
    record("batching", rows, ["torch", "transformers"])


if __name__ == "__main__":
    main()
