"""Prompt and answer speed of the bundled model, beside native transformers on the same weights, in the same run."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.record import interleaved, record
from coderv2 import LLM, SamplingParams, paths

ROUNDS = 5
CASES = (
    # name, prompts at once, prompt tokens, new tokens
    ("prompt of 512", 1, 512, 1),
    ("prompt of 2,048", 1, 2048, 1),
    ("answer of 128", 1, 16, 128),
    ("8 answers of 64", 8, 16, 64),
)


def main() -> None:
    """Measures every case; both sides greedy, float32, ending only at the length."""
    torch.set_num_threads(paths.threads())
    ours, theirs = LLM(dtype="float32"), _peer()
    rows = []
    for name, prompts, length, new in CASES:
        ids = [[(7 * i + 13 * j) % 3000 + 10 for j in range(length)] for i in range(prompts)]
        seconds = interleaved({"ours": _ours(ours, ids, new), "theirs": _theirs(theirs, ids, new)}, ROUNDS)
        tokens = prompts * (new if new > 1 else length)
        rows.append({
            "case": name,
            "ours, tokens/s": tokens / seconds["ours"],
            "transformers, tokens/s": tokens / seconds["theirs"],
            "ratio": seconds["theirs"] / seconds["ours"],
        })  # fmt: skip
    record("generation", rows, ["torch", "transformers"])


def _peer() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(paths.bundled_model(), dtype=torch.float32).eval()


def _ours(llm: LLM, ids: list[list[int]], new: int) -> Callable[[], object]:
    params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
    return lambda: llm.generate(prompt_token_ids=ids, sampling_params=params, use_tqdm=False)


def _theirs(model: Any, ids: list[list[int]], new: int) -> Callable[[], object]:
    batch = torch.tensor(ids)
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}

    def run() -> object:
        with torch.inference_mode():
            return model.generate(batch, attention_mask=torch.ones_like(batch), **options)

    return run


if __name__ == "__main__":
    main()
