from pathlib import Path

import torch

from coderv2.training.config import RunConfig
from coderv2.training.pretrain import pretrain
from tests.tiny import tiny_config
from tests.training.fakes import counting_shard


def test_two_steps_train_a_model_in_the_wanted_dtype(tmp_path: Path) -> None:
    run = RunConfig(steps=2, row_tokens=64, rows_per_step=1, log_every=1)
    shard = counting_shard(tmp_path / "shard")
    model, progress = pretrain(
        tiny_config(), shard, run, tmp_path / "run", device="cpu", dtype=torch.bfloat16
    )
    assert model.dtype == torch.bfloat16
    assert progress.step == 2
    assert progress.tokens > 60


def test_the_same_seed_gives_the_same_model(tmp_path: Path) -> None:
    run = RunConfig(steps=2, row_tokens=64, rows_per_step=1, seed=3)
    shard = counting_shard(tmp_path / "shard")
    first, second = (
        pretrain(tiny_config(), shard, run, tmp_path / name, device="cpu", dtype=torch.float32)[0]
        for name in ("one", "two")
    )
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
