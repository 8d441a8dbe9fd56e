"""What each of the GPU's formats costs in quality: KL and perplexity beside bfloat16 weights, on held-out code.

The kernels' arithmetic in plain PyTorch (`kernels.reference`), so that no GPU is needed: weights and, with fp8, the
rows that they multiply are rounded as the kernels do; everything else is float32. Latents pass through the cache's
format.

    python -m benchmarks gpu_quality
"""

from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.record import record
from coderv2 import paths
from coderv2.kernels.scaled import Scaled, to_fp8, to_int4
from coderv2.model.calibration import rows_of
from coderv2.model.quality import cost, distributions, rounded, to_static_fp8
from coderv2.model.transformer import Transformer
from coderv2.model.weights import load
from coderv2.text.tokenizer import Tokenizer

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
LEARNT, JUDGED = 4, 3
"""Rows that static scales are taken from, and rows that are judged on."""


def main(folder: Path | None = None) -> None:
    """The bundled model, or a folder's, in every format."""
    folder = folder or paths.bundled_model()
    torch.set_num_threads(paths.threads())
    rows = rows_of(Tokenizer.from_folder(folder), None)

    def plain() -> Transformer:
        return load(folder, dtype=torch.bfloat16).float()

    def by(rule: Callable[[torch.Tensor], Scaled]) -> Callable[[], Transformer]:
        return lambda: rounded(plain(), rule)

    block = by(to_fp8)
    variants: list[tuple[str, str, Callable[[], Transformer], torch.dtype | None]] = [
        ("bf16", "bf16", plain, torch.bfloat16),
        ("fp8, blocks of 128 x 128, rows by 128", "f32", block, None),
        ("fp8, one scale a matrix, rows by 128", "f32", by(lambda w: to_fp8(w, whole=True)), None),
        (
            "fp8, one scale a matrix, rows static",
            "f32",
            lambda: to_static_fp8(plain(), rows.learn[:LEARNT]),
            None,
        ),
        ("int4, groups of 32", "f32", by(lambda w: to_int4(w, 32)), None),
        ("int4, groups of 64", "f32", by(to_int4), None),
        ("bf16", "fp8 e4m3", plain, E4M3),
        ("bf16", "fp8 e5m2", plain, E5M2),
        ("fp8, blocks of 128 x 128, rows by 128", "fp8 e4m3", block, E4M3),
        ("fp8, blocks of 128 x 128, rows by 128", "fp8 e5m2", block, E5M2),
    ]
    judged = rows.judge[:JUDGED]
    wide, found = list(distributions(plain(), judged)), []
    for weights, cache, make, dtype in variants:
        seen = cost(wide, distributions(make(), judged, dtype), judged)
        found.append(
            {
                "weights": weights, "cache": cache, "KL": seen.kl, "perplexity": seen.perplexity,
                "wide": seen.perplexity_wide, "same likeliest": seen.same_first, "tokens": seen.tokens,
            }
        )  # fmt: skip
        print(found[-1], flush=True)
    record("gpu_quality", found, ["torch"])


if __name__ == "__main__":
    main()
