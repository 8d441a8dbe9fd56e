"""Packed folders out of other checkpoints: as the weights lie, or quantised and judged."""

import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from coderv2.model import usage
from coderv2.model.calibration import Rows
from coderv2.model.loading import open_source
from coderv2.model.pack import slots, take
from coderv2.model.packed_file import Writer, quantisation_config
from coderv2.model.published import meta_model
from coderv2.model.quantise import Quality, Quantiser

REPORT = "quantisation.json"


@torch.no_grad()
def pack_folder(source_path: Path, out: Path, *, progress: bool = False) -> None:
    """Writes the weights of a checkpoint or GGUF file in kernel order, every number as it is; memory: one tensor."""
    with ExitStack() as stack:
        source = open_source(source_path, stack)
        model = meta_model(source.config)
        out.mkdir(parents=True, exist_ok=True)
        with Writer(out, source.config) as writer:
            bar = tqdm(slots(model), desc="packing", unit="tensor", disable=None if progress else True)
            for module, name, ours, _ in bar:
                source.fill_packed(module, name, ours)
                for part, value in take(module).items():
                    writer.add(ours.removesuffix(name) + part, value)
        _write_config(out, source.config.to_dict(), "as stored")


def quantise_folder(
    source_path: Path, out: Path, weights: str, rows: Rows | None, *, progress: bool = False
) -> Quality | None:
    """Writes the weights in the format `weights`; int4 is calibrated on `rows`, which any is judged on."""
    with ExitStack() as stack:
        source = open_source(source_path, stack)
        out.mkdir(parents=True, exist_ok=True)
        quantiser = Quantiser(source, weights, rows, source.dtype)
        quality = quantiser.run(out, progress=progress)
        if quantiser.choices:
            usage.of_choices(quantiser.choices, source.config.n_routed_experts).save(out / usage.NAME)
        _write_config(out, source.config.to_dict(), weights)
    if quality is not None and rows is not None:
        _write_json(out / REPORT, {"weights": weights, "text": rows.source} | asdict(quality))
    return quality


def _write_config(out: Path, config: dict[str, Any], weights: str) -> None:
    _write_json(out / "config.json", config | {"quantization_config": quantisation_config(weights)})


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
