"""Writing GGUF: weights a second of each type, in C++ and in PyTorch, and of a checkpoint of Lite's true widths.

The checkpoint has Lite's first two layers (the dense one, and one of 64 experts), its embedding and its logits' matrix;
`Lite, s` is what all 15.7 billion weights would take at its pace.
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.loading import SHAPE
from benchmarks.record import interleaved, record
from coderv2 import paths
from coderv2.kernels.cpu import kernels
from coderv2.kernels.ggml_encode import encode, encode_plainly
from coderv2.model.config import ModelConfig
from coderv2.model.gguf_export import export
from coderv2.model.gguf_types import FILE_TYPES
from coderv2.model.transformer import Transformer
from coderv2.model.weights import save

TYPES = ("Q8_0", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
LITE_WEIGHTS = 15.706e9


def main() -> None:
    """One line for each type, one for each file type."""
    torch.set_num_threads(paths.threads())
    rows = [_type(name) for name in TYPES]
    with tempfile.TemporaryDirectory() as scratch:
        folder, weights = checkpoint(Path(scratch))
        rows += [_file(folder, weights, name) for name in ("q4_k_m", "q8_0", "bf16")]
    record("gguf_encoding", rows, ["torch"])


def _type(name: str) -> dict[str, Any]:
    x = (torch.randn(1408, 2048) * 0.02).bfloat16()
    runs: dict[str, Any] = {"plainly": lambda: encode_plainly(name, x)}
    if kernels is not None:
        runs["natively"] = lambda: encode(name, x)
    seconds = interleaved(runs, 3)
    speeds = {how: x.numel() / took / 1e6 for how, took in seconds.items()}
    return _row(name, speeds["plainly"], speeds.get("natively"))


def _file(folder: Path, weights: int, name: str) -> dict[str, Any]:
    begin = time.perf_counter()
    export(folder, folder / "x.gguf", FILE_TYPES[name], name="slice")
    seconds = time.perf_counter() - begin
    return _row(f"file {name}", None, weights / seconds / 1e6) | {"Lite, s": seconds * LITE_WEIGHTS / weights}


def _row(name: str, plainly: float | None, natively: float | None) -> dict[str, Any]:
    return {"type": name, "PyTorch, M/s": plainly, "C++, M/s": natively, "Lite, s": None}


def checkpoint(folder: Path) -> tuple[Path, int]:
    """A random one in bfloat16, and how many weights it has."""
    shape = SHAPE | {"num_hidden_layers": 2, "n_routed_experts": 64}
    model = Transformer(ModelConfig.from_dict(shape)).bfloat16().initialise(0.02, 0)
    save(model, folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(paths.bundled_model() / file, folder)
    return folder, sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    main()
