from pathlib import Path

import pytest
import torch

from coderv2.data.loader import LoaderState
from coderv2.errors import BadCheckpoint
from coderv2.training import checkpoint
from coderv2.training.checkpoint import Progress, Record, State


def test_a_state_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    progress = Progress(step=3, tokens=70, seconds=1.5, loader=LoaderState(1, 4), norms=[0.5])
    record = Record({"optim.lr": 0.1, "steps": None}, "abc")
    checkpoint.save(tmp_path / "run", State(progress, {"masters": {"norm": torch.arange(3.0)}}, record))
    loaded = checkpoint.load(tmp_path / "run")
    assert loaded is not None
    assert (loaded.progress, loaded.record) == (progress, record)
    assert loaded.optimiser["masters"]["norm"].tolist() == [0.0, 1.0, 2.0]


def test_a_folder_without_a_state_has_none(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path) is None


def test_a_kill_while_saving_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, State(Progress(step=1), {}, Record({}, "")))

    def killed(value: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, State(Progress(step=2), {}, Record({}, "")))
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    assert loaded.progress.step == 1


def test_a_damaged_state_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / checkpoint.FILE).write_bytes(b"not a checkpoint")
    with pytest.raises(BadCheckpoint, match=r"state\.pt cannot be read"):
        checkpoint.load(tmp_path)
