"""What a checkpoint's weights take in memory, before they are read."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from coderv2.engine.offload import Wish
from coderv2.errors import Unsupported
from coderv2.model import footprint, weights
from coderv2.model.checkpoint import SINGLE
from coderv2.model.config import ModelConfig
from tests.model.fp8_files import LAYOUTS, fp8_folder

BY_ROW = {"config_groups": {"group_0": {"weights": {"strategy": "channel"}}}}


def _bytes(folder: Path) -> int:
    config = ModelConfig.from_folder(folder)
    with ExitStack() as stack:
        return footprint.packed_bytes(config, footprint.open_headers(folder, config, stack))


def _says(folder: Path, **more: Any) -> None:
    """Adds to what the config tells of the weights' numbers."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["quantization_config"] |= more
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fp8_is_counted_as_the_loaded_model_holds_it(layout: str, tmp_path: Path) -> None:
    fp8_folder(tmp_path / "fp8", layout)
    model = weights.load(tmp_path / "fp8", packed=True)
    held = sum(weight.data.nbytes for weight in model.weights()) + sum(p.nbytes for p in model.parameters())
    assert _bytes(tmp_path / "fp8") == held


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_config_alone_says_the_same_as_the_files(layout: str, tmp_path: Path) -> None:
    """`coderv2 plan` of a hub's FP8 model, of which only the config is fetched, wanted its files."""
    folder = tmp_path / "fp8"
    fp8_folder(folder, layout)
    _says(folder, **(BY_ROW if layout == "row" else {}))
    config = ModelConfig.from_folder(folder)
    before = _bytes(folder), Wish(folder).sizes(config)
    (folder / SINGLE).unlink()
    assert (_bytes(folder), Wish(folder).sizes(config)) == before


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("ignore", "re:.*self_attn.*"),
        ("ignored_layers", "model.layers.0.self_attn.o_proj"),
        ("modules_to_not_convert", "model.layers.1"),
    ],
)
def test_what_a_config_leaves_out_stays_wide(name: str, entry: str, tmp_path: Path) -> None:
    fp8_folder(tmp_path / "fp8", "block")
    (tmp_path / "fp8" / SINGLE).unlink()
    before = _bytes(tmp_path / "fp8")
    _says(tmp_path / "fp8", **{name: [entry]})
    assert before < _bytes(tmp_path / "fp8") < 2 * before


def test_a_config_of_another_quantisation_is_refused(tmp_path: Path) -> None:
    fp8_folder(tmp_path / "fp8", "block")
    (tmp_path / "fp8" / SINGLE).unlink()
    _says(tmp_path / "fp8", quant_method="awq")
    with pytest.raises(Unsupported, match="quantised by 'awq'"):
        _bytes(tmp_path / "fp8")
