"""Same file, next-token KL: ours and llama.cpp's run of each type, both against llama.cpp's own BF16 run.

The bundled model, exported by us, and quantised by llama.cpp's quantiser into the types that we only read. The text is
held out (`held_out`). Differences are paired token by token; their standard error is that of means of 32 neighbours,
since neighbouring tokens share their luck. A second run of ours multiplies all of attention in float32, as llama.cpp
does here, where the first multiplies weights and values in bfloat16. Not among `python -m benchmarks`, since it needs
llama-cpp-python (`make .venv/installed-llama-cpp`):

    python -m benchmarks.gguf_quality [PIECES OF 512 TOKENS [TYPE…]]

PIECES may be FIRST:END, for text that a change was not tried on.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.held_out import TEXTS, TOKENS, prompts
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


Runs = dict[str, Callable[[list[int]], Tensor]]
"""Who answers, and how: log-probabilities [T, W] after each token of a prompt."""


def runs(path: Path, peer: LlamaCpp) -> Runs:
    """One file in llama.cpp, in ours, and in ours with attention in float32."""
    model = gguf.load(path)

    def ours(ids: list[int], ops: type[Ops]) -> Tensor:
        with torch.inference_mode():
            logits_TW: Tensor = model(replace(Batch.packed([ids]), computed_by=ops))
        return logits_TW.log_softmax(-1)

    return {
        "llama.cpp": lambda ids: peer.logits(ids).log_softmax(-1),
        "ours": lambda ids: ours(ids, Ops),
        "float32 attention": lambda ids: ours(ids, WideAttention),
    }


def divergence(p_TW: Tensor, q_TW: Tensor) -> Tensor:
    """KL of the next token after each, in nats, and whether the likeliest token is the same, [T, 2]."""
    p_TW, q_TW = p_TW.double(), q_TW.double()
    same_T = p_TW.argmax(-1) == q_TW.argmax(-1)
    return torch.stack(((p_TW.exp() * (p_TW - q_TW)).sum(-1), same_T.double()), -1)


def excess(mine_T: Tensor, peer_T: Tensor) -> tuple[float, float]:
    """Mean of the paired differences and its standard error."""
    means = torch.stack([part.mean() for part in (mine_T - peer_T).split(NEIGHBOURS)])
    return means.mean().item(), means.std().item() / len(means) ** 0.5


def compared(path: Path, texts: list[list[int]], plain: Path) -> dict[str, Any]:
    """One file in all runs, beside llama.cpp's run of the `plain` one."""
    with LlamaCpp(plain) as exact, LlamaCpp(path) as peer:
        answers = runs(path, peer)
        found = {name: torch.empty(len(texts), TOKENS, 2, dtype=torch.double) for name in answers}
        for i, ids in enumerate(texts):
            reference_TW = exact.logits(ids).log_softmax(-1)
            for name, answer in answers.items():
                found[name][i] = divergence(reference_TW, answer(ids))
    (peer_T, peer_same), (mine_T, mine_same), (wide_T, _) = (
        (rows_NT2[..., 0].flatten(), 100 * rows_NT2[..., 1].mean().item()) for rows_NT2 in found.values()
    )
    (more, error), (wide_more, wide_error) = (excess(run_T, peer_T) for run_T in (mine_T, wide_T))
    return {
        "KL llama.cpp": peer_T.mean().item(),
        "KL ours": mine_T.mean().item(),
        "ours more": more,
        "standard error": error,
        "float32 attention more": wide_more,
        "its standard error": wide_error,
        "same token llama.cpp %": peer_same,
        "same token ours %": mine_same,
    }


def main(pieces: str, names: Sequence[str]) -> None:
    """One line a type, on these pieces of text."""
    first, _, end = pieces.rpartition(":")
    texts = prompts(Tokenizer.from_folder(bundled_model()), int(end))[int(first or 0) :]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "bf16.gguf")
        export(bundled_model(), plain, FILE_TYPES["bf16"], name="bundled")
        for name in names:
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
                    "pieces": pieces,
                    "tokens": sum(map(len, texts)),
                    **compared(path, texts, plain),
                }
            )
    record("gguf_quality", rows, ("torch", "llama-cpp-python", "gguf"))


if __name__ == "__main__":
    pieces, *types = sys.argv[1:] or [str(TEXTS)]
    main(pieces, types or [*FILE_TYPES, *READ_ONLY])
