"""coderv2 bench --tune, as on a machine with a GPU."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tests.kernels.gpu.place  # noqa: F401
from coderv2.kernels.gpu import trials, tuning
from tests.cli.conftest import RunCommand


@pytest.mark.parametrize(
    ("capability", "kinds"), [((9, 0), ("plain", "fp8", "int4")), ((8, 6), ("plain", "int4"))]
)
def test_tune_says_how_far_it_is_and_where_the_tiles_are(
    command: RunCommand, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], kinds: tuple[str, ...]
) -> None:
    def tune(
        layer: trials.Layer, device: torch.device, *, kinds: tuple[str, ...], say: Callable[[str], None]
    ) -> Path:
        say(f"{layer.F} {device} {' '.join(kinds)}")
        return Path("card.json")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(tuning, "tune", tune)
    outcome = command("bench", "--tune")
    assert outcome.code == 0, outcome.err
    assert outcome.out == f"1408 cuda:0 {' '.join(kinds)}\nwritten: card.json\n"
