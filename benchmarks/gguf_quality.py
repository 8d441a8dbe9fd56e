"""Same file, next-token KL: ours and llama.cpp's run of each type, both against llama.cpp's own BF16 run.

The bundled model, exported by us, and quantised by llama.cpp's quantiser into the types that we only read. The text is
held out: files of the standard library, which the model was not trained on. Differences are paired token by token;
their standard error is that of means of 32 neighbours, since neighbouring tokens share their luck. A second run of ours
multiplies attention in float32, as llama.cpp does here, where the first multiplies in bfloat16. Not among
`python -m benchmarks`, since it needs llama-cpp-python (`make .venv/installed-llama-cpp`):
`python -m benchmarks.gguf_quality`.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.held_out import prompts
from benchmarks.peer_llama_cpp import LlamaCpp, quantise
from benchmarks.record import record
from coderv2.kernels.ops import Ops
from coderv2.model import gguf
from coderv2.model.batch import Batch
from coderv2.model.gguf_export import export
from coderv2.model.gguf_types import FILE_TYPES
from coderv2.paths import bundled_model
from coderv2.text.tokenizer import Tokenizer

NEIGHBOURS = 32
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


class WideAttention(Ops):
    """Attention's products in float32 whatever the weights are."""

    @staticmethod
    def mla_prefill(*operands: Tensor, rounded: bool, **spans: Any) -> Tensor:
        """As `Ops` has it; `rounded` is overruled."""
        out_THV: Tensor = Ops.mla_prefill(*operands, rounded=False, **spans)
        return out_THV


def ours(path: Path, prompts: list[list[int]], ops: type[Ops] = Ops) -> list[Tensor]:
    """Log-probabilities [T, W] of each prompt."""
    model = gguf.load(path)
    with torch.inference_mode():
        return [model(replace(Batch.packed([ids]), computed_by=ops)).log_softmax(-1) for ids in prompts]


def theirs(path: Path, prompts: list[list[int]]) -> list[Tensor]:
    """The same by llama.cpp."""
    with LlamaCpp(path) as peer:
        return [peer.logits(ids).log_softmax(-1) for ids in prompts]


def divergences(reference: list[Tensor], other: list[Tensor]) -> Tensor:
    """KL of the next token after each, in nats."""
    pairs = ((p.double(), q.double()) for p, q in zip(reference, other, strict=True))
    return torch.cat([(p.exp() * (p - q)).sum(-1) for p, q in pairs])


def same_first(reference: list[Tensor], other: list[Tensor]) -> float:
    """How often the likeliest token is the same, in percent."""
    pairs = zip(reference, other, strict=True)
    return 100 * torch.cat([p.argmax(-1) == q.argmax(-1) for p, q in pairs]).double().mean().item()


def excess(mine_T: Tensor, peer_T: Tensor) -> tuple[float, float]:
    """Mean of the paired differences and its standard error."""
    means = torch.stack([part.mean() for part in (mine_T - peer_T).split(NEIGHBOURS)])
    return means.mean().item(), means.std().item() / len(means) ** 0.5


def compared(path: Path, texts: list[list[int]], reference: list[Tensor]) -> dict[str, Any]:
    """One file in all three runs."""
    runs = [theirs(path, texts), ours(path, texts), ours(path, texts, WideAttention)]
    peer_T, mine_T, wide_T = (divergences(reference, run) for run in runs)
    (more, error), (wide_more, wide_error) = (excess(run_T, peer_T) for run_T in (mine_T, wide_T))
    return {
        "KL llama.cpp": peer_T.mean().item(),
        "KL ours": mine_T.mean().item(),
        "ours more": more,
        "standard error": error,
        "float32 attention more": wide_more,
        "its standard error": wide_error,
        "same token llama.cpp %": same_first(reference, runs[0]),
        "same token ours %": same_first(reference, runs[1]),
    }


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
            rows.append(
                {
                    "file": name,
                    "written by": "us" if name in FILE_TYPES else "llama.cpp",
                    "MB": path.stat().st_size / 1e6,
                    **compared(path, texts, reference),
                }
            )
    record("gguf_quality", rows, ("torch", "llama-cpp-python", "gguf"))


if __name__ == "__main__":
    main()
