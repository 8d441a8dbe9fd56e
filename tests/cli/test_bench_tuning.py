"""coderv2 bench --tune, as on a machine with a GPU."""

from pathlib import Path

import pytest
import torch

from tests.kernels.gpu.place import DEVICE
from coderv2.kernels.gpu import tiles, tuning
from tests.cli.conftest import RunCommand


def test_tune_keeps_the_best_tiles(
    command: RunCommand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept: list[tuple[object, ...]] = []

    def write(*table: object) -> Path:
        kept.append(table)
        return tmp_path / "card.json"

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(tiles, "card", lambda device: tiles.Card(f"card {DEVICE}", 0, 0))
    monkeypatch.setattr(tuning, "tune", lambda *shape: ({"case": shape[:4]}, {}))
    monkeypatch.setattr(tiles, "write_table", write)
    outcome = command("bench", "--tune")
    assert outcome.code == 0, outcome.err
    assert outcome.out == f"written: {tmp_path / 'card.json'}\n"
    assert kept == [(f"card {DEVICE}", {"case": (2048, 1408, 64, 6)}, {})]
