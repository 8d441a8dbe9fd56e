"""Same file, next-token KL: ours and llama.cpp's run of each type, both against llama.cpp's own BF16 run.

The bundled model, exported by us, and quantised by llama.cpp's quantiser into the types that we only read. The text is
held out: files of the standard library, which the model was not trained on. Not among `python -m benchmarks`, since it
needs llama-cpp-python (`make .venv/installed-llama-cpp`): `python -m benchmarks.gguf_quality`.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.held_out import divergence, prompts
from benchmarks.peer_llama_cpp import LlamaCpp, quantise
from benchmarks.record import record
from coderv2.model import gguf
from coderv2.model.batch import Batch
from coderv2.model.gguf_export import export
from coderv2.model.gguf_types import FILE_TYPES
from coderv2.paths import bundled_model
from coderv2.text.tokenizer import Tokenizer

# File types that we read and do not write, by llama.cpp's numbers.
READ_ONLY = {
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 8,
    "q5_1": 9,
    "q2_k": 10,
    "q3_k_m": 12,
    "iq4_nl": 25,
    "iq4_xs": 30,
    "f16": 1,
}


def ours(path: Path, prompts: list[list[int]]) -> list[Tensor]:
    """Log-probabilities [T, W] of each prompt."""
    model = gguf.load(path)
    with torch.inference_mode():
        return [model(Batch.packed([ids])).log_softmax(-1) for ids in prompts]


def theirs(path: Path, prompts: list[list[int]]) -> list[Tensor]:
    """The same by llama.cpp."""
    with LlamaCpp(path) as peer:
        return [peer.logits(ids).log_softmax(-1) for ids in prompts]


def main() -> None:
    """One line a type."""
    texts = prompts(Tokenizer.from_folder(bundled_model()))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "bf16.gguf")
        export(bundled_model(), plain, FILE_TYPES["bf16"], name="bundled")
        reference = theirs(plain, texts)
        for name in [*FILE_TYPES, *READ_ONLY]:
            path = Path(folder, f"{name}.gguf")
            if name in FILE_TYPES:
                export(bundled_model(), path, FILE_TYPES[name], name="bundled")
            else:
                quantise(plain, path, READ_ONLY[name])
            mine, same = divergence(reference, ours(path, texts))
            peer, peer_same = divergence(reference, theirs(path, texts))
            rows.append(
                {
                    "file": name,
                    "written by": "us" if name in FILE_TYPES else "llama.cpp",
                    "MB": path.stat().st_size / 1e6,
                    "KL ours": mine,
                    "KL llama.cpp": peer,
                    "same token ours %": 100 * same,
                    "same token llama.cpp %": 100 * peer_same,
                }
            )
    record("gguf_quality", rows, ("torch", "llama-cpp-python", "gguf"))


if __name__ == "__main__":
    main()
