"""What `deterministic=True` costs: the same work with and without, in the same run."""

from collections.abc import Callable

import torch

from benchmarks.record import interleaved, record
from coderv2 import paths
from coderv2.engine.engine import Engine, EngineSettings
from coderv2.engine.request import SamplingParams
from coderv2.model import weights
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
    model, tokenizer = weights.load(folder, dtype=torch.float32), Tokenizer.from_folder(folder)
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
        ids = [[(7 * i + 13 * j) % 3000 + 10 for j in range(length)] for i in range(prompts)]
        runs = {str(mode): _run(engine, ids, new) for mode, engine in engines.items()}
        seconds = interleaved(runs, ROUNDS)
        tokens = prompts * (new if new > 1 else length)
        rows.append({
            "case": name,
            "usual, tokens/s": tokens / seconds["False"],
            "deterministic, tokens/s": tokens / seconds["True"],
            "time, times usual": seconds["True"] / seconds["False"],
        })  # fmt: skip
    record("determinism", rows, ["torch"])


def _run(engine: Engine, prompts: list[list[int]], new: int) -> Callable[[], object]:
    params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)

    def run() -> None:
        for ids in prompts:
            engine.submit(ids, params)
        while engine.has_work():
            engine.step()

    return run


if __name__ == "__main__":
    main()
