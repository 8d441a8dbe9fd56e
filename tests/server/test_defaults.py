"""generation_config.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from coderv2.errors import BadCheckpoint
from coderv2.server.defaults import SamplingDefaults


def _from(folder: Path, text: str) -> SamplingDefaults:
    (folder / "generation_config.json").write_text(text, "utf-8")
    return SamplingDefaults.from_folder(folder)


def test_without_a_file_the_defaults_are_those_of_deepseeks_readme(tmp_path: Path) -> None:
    assert SamplingDefaults.from_folder(tmp_path) == SamplingDefaults(0.3, 0.95)


def test_the_models_own_numbers_are_taken(tmp_path: Path) -> None:
    text = json.dumps({"temperature": 0.6, "top_p": 0.9, "eos_token_id": 1})
    assert _from(tmp_path, text) == SamplingDefaults(0.6, 0.9)


def test_a_missing_number_or_null_is_the_default(tmp_path: Path) -> None:
    assert _from(tmp_path, '{"temperature": null, "top_p": 0.5}') == SamplingDefaults(0.3, 0.5)


@pytest.mark.parametrize(
    "config",
    [{"temperature": -1}, {"temperature": "0.3"}, {"temperature": True}, {"top_p": 0}, {"top_p": 1.1}, []],
)
def test_numbers_out_of_range_are_a_bad_checkpoint(tmp_path: Path, config: Any) -> None:
    with pytest.raises(BadCheckpoint, match="generation_config"):
        _from(tmp_path, json.dumps(config))


@pytest.mark.parametrize("text", ["{", '{"temperature": NaN}'])
def test_a_damaged_file_is_a_bad_checkpoint(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadCheckpoint, match="generation_config"):
        _from(tmp_path, text)
