"""Counts of experts: what routers chose, kept in a file, of the right model only."""

from pathlib import Path

import pytest
import torch

from coderv2.errors import BadData
from coderv2.model import usage
from coderv2.model.batch import Batch
from coderv2.model.usage import Usage
from tests.tiny import tiny_config, tiny_model

ROWS = [[(7 * i + r) % 500 + 3 for i in range(20 + r)] for r in range(6)]


def test_every_choice_is_counted() -> None:
    config = tiny_config("full")
    model = tiny_model(config)
    found = usage.count(model, ROWS)
    log: list = []  # type: ignore[type-arg]
    with torch.inference_mode():
        model(Batch.packed(ROWS, router_log=log))
    for layer, record in enumerate(log, config.first_k_dense_replace):
        wanted = torch.bincount(record.experts_TK.flatten(), minlength=config.n_routed_experts)
        assert found.counts[layer] == tuple(wanted.tolist())
    assert list(found.counts) == [1, 2, 3]


def test_a_file_brings_back_what_was_saved(tmp_path: Path) -> None:
    config = tiny_config()
    found = usage.count(tiny_model(config), ROWS)
    found.save(tmp_path / "usage.json")
    assert usage.read(tmp_path / "usage.json", config) == found
    assert (found + found).share(1, range(8)) == found.share(1, range(8))
    assert found.share(1, range(16)) == 1.0


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"counts": {"1": "ab"}}', '{"counts": {"1": [1, 2]}}'])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "usage.json"
    path.write_text(text)
    with pytest.raises(BadData, match="counts of experts"):
        usage.read(path, tiny_config())


def test_counts_of_another_model_are_refused(tmp_path: Path) -> None:
    usage.uniform(tiny_config("full")).save(tmp_path / "usage.json")
    with pytest.raises(BadData, match="another model"):
        usage.read(tmp_path / "usage.json", tiny_config("lite"))


def test_without_counts_all_are_alike() -> None:
    assert Usage({1: (0, 0, 0, 0)}).share(1, (2,)) == 0.25


def test_a_file_of_bytes_is_not_put_into_the_error(tmp_path: Path) -> None:
    (tmp_path / "usage.json").write_bytes(bytes(range(256)) * 100)
    with pytest.raises(BadData, match="no counts of experts") as caught:
        usage.read(tmp_path / "usage.json", tiny_config("full"))
    assert len(str(caught.value)) < 300
