"""Prompt and answer speed of the bundled model, beside native transformers on the same weights, in the same run."""

import torch

from benchmarks import peer
from benchmarks.record import interleaved, record
from coderv2 import LLM, paths

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
    llm, other = LLM(dtype="float32", enable_prefix_caching=False, draft_tokens=0), peer.transformers_model()
    rows = []
    for name, prompts, length, new in CASES:
        ids = peer.prompts(prompts, length)
        seconds = interleaved(
            {"ours": peer.ours(llm, ids, new), "theirs": peer.theirs(other, ids, new)}, ROUNDS
        )
        tokens = prompts * (new if new > 1 else length)
        rows.append({
            "case": name,
            "ours, tokens/s": tokens / seconds["ours"],
            "transformers, tokens/s": tokens / seconds["theirs"],
            "ratio": seconds["theirs"] / seconds["ours"],
        })  # fmt: skip
    record("generation", rows, ["torch", "transformers"])


if __name__ == "__main__":
    main()
