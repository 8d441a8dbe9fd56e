"""What each format costs in quality on the bundled model, int4 rounded to nearest beside calibrated."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch

from benchmarks.record import record
from coderv2 import paths
from coderv2.model.calibration import rows_of
from coderv2.model.folder import FolderSource
from coderv2.model.quantise import Quantiser
from coderv2.text.tokenizer import Tokenizer

VARIANTS = (("bf16", True), ("int8", True), ("fp8", True), ("int4", False), ("int4", True))
"""Formats, and whether int4 is calibrated."""


def main() -> None:
    """Quantises the bundled model in every format and records what was reported."""
    folder = paths.bundled_model()
    rows = rows_of(Tokenizer.from_folder(folder), None)
    torch.set_num_threads(paths.threads())
    results = []
    for weights, calibrated in VARIANTS:
        with ExitStack() as stack:
            out = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            source = FolderSource(folder, stack)
            quality = Quantiser(source, weights, rows, source.dtype, calibrated=calibrated).run(out)
            assert quality is not None  # there is text to judge on
            results.append(
                {
                    "weights": weights,
                    "how": "calibrated" if weights == "int4" and calibrated else "to nearest",
                    "megabytes": (out / "model.packed").stat().st_size / 1e6,
                    "kl": quality.kl,
                    "perplexity": quality.perplexity,
                    "same_first": quality.same_first,
                    **{f"layer_{error.layer}": error.own for error in quality.layers},
                }
            )
    record("quantisation", results, ["torch"])
