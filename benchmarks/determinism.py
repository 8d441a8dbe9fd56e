"""What `deterministic=True` costs: the same work with and without, in the same run."""

import torch

from benchmarks import peer
from benchmarks.record import interleaved, record
from coderv2 import paths
from coderv2.engine.engine import Engine, EngineSettings
from coderv2.model.loading import open_model
from coderv2.text.tokenizer import Tokenizer

ROUNDS = 5
CASES = (
    # name, prompts at once, prompt tokens, new tokens
    ("prompt of 512", 1, 512, 1),
    ("prompt of 2,048", 1, 2048, 1),
    ("answer of 64", 1, 16, 64),
    ("answer of 64 after 1,500", 1, 1500, 64),
    ("16 answers of 32", 16, 16, 32),
)


def main() -> None:
    """Greedy, float32, nothing shared."""
    torch.set_num_threads(paths.threads())
    folder = paths.bundled_model()
    model, tokenizer = open_model(folder, dtype=torch.float32), Tokenizer.from_folder(folder)
    engines = {
        mode: Engine(
            model,
            tokenizer,
            EngineSettings(max_model_len=4096, cache_tokens=16384, prefix_caching=False, deterministic=mode),
        )
        for mode in (False, True)
    }
    rows = []
    for name, prompts, length, new in CASES:
        ids = peer.prompts(prompts, length)
        runs = {str(mode): peer.drained(engine, ids, new) for mode, engine in engines.items()}
        seconds = interleaved(runs, ROUNDS)
        tokens = prompts * (new if new > 1 else length)
        rows.append({
            "case": name,
            "usual, tokens/s": tokens / seconds["False"],
            "deterministic, tokens/s": tokens / seconds["True"],
            "time, times usual": seconds["True"] / seconds["False"],
        })  # fmt: skip
    record("determinism", rows, ["torch"])


if __name__ == "__main__":
    main()
