"""Tokens per second of many requests together beside one alone, on the bundled model; transformers in the same run."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.record import interleaved, record
from coderv2 import LLM, SamplingParams, paths

ROUNDS = 7
NEW = 96
PROMPT = 32
BATCHES = (1, 2, 4, 8, 16, 32)


def main() -> None:
    """Greedy, float32, ending only at the length; every round runs all sizes of ours and of theirs."""
    torch.set_num_threads(paths.threads())
    llm, peer = LLM(dtype="float32", enable_prefix_caching=False), _peer()
    runs: dict[str, Callable[[], object]] = {}
    for batch in BATCHES:
        ids = [[(7 * i + 13 * j) % 3000 + 10 for j in range(PROMPT)] for i in range(batch)]
        runs[f"ours {batch}"] = _ours(llm, ids)
        runs[f"theirs {batch}"] = _theirs(peer, ids)
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


def _peer() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(paths.bundled_model(), dtype=torch.float32).eval()


def _ours(llm: LLM, ids: list[list[int]]) -> Callable[[], object]:
    params = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True)
    return lambda: llm.generate(prompt_token_ids=ids, sampling_params=params, use_tqdm=False)


def _theirs(model: Any, ids: list[list[int]]) -> Callable[[], object]:
    batch = torch.tensor(ids)
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}

    def run() -> object:
        with torch.inference_mode():
            return model.generate(batch, attention_mask=torch.ones_like(batch), **options)

    return run


if __name__ == "__main__":
    main()
