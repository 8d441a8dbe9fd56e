import json
from pathlib import Path

import pytest
import torch

from coderv2.data.shards import Shard
from coderv2.errors import BadCheckpoint
from coderv2.model.transformer import Transformer
from coderv2.training.checkpoint import Progress
from coderv2.training.config import OptimConfig, RunConfig, override, settings
from coderv2.training.loop import share_done, train
from tests.tiny import tiny_config, tiny_model
from tests.training.fakes import counting_shard

RUN = RunConfig(
    steps=30, row_tokens=64, rows_per_step=2, log_every=1, save_every=1000, optim=OptimConfig(warmup_steps=5)
)


def fresh() -> Transformer:
    return tiny_model(tiny_config()).requires_grad_()


def logged(folder: Path) -> list[dict[str, float]]:
    """Lines of the log that are about a step."""
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line for line in lines if "loss" in line]


def test_training_learns_to_count(tmp_path: Path) -> None:
    shard = Shard(counting_shard(tmp_path / "shard"))
    progress = train(fresh(), shard, RUN, tmp_path / "run")
    losses = [line["loss"] for line in logged(tmp_path / "run")]
    assert (progress.step, len(losses)) == (30, 30)
    assert losses[-1] < losses[0] / 2


def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = Shard(counting_shard(tmp_path / "shard"))
    whole, killed = fresh(), fresh()
    run = RunConfig(steps=6, row_tokens=64, rows_per_step=1, save_every=2)
    train(whole, shard, run, tmp_path / "whole")

    reported = iter(range(4))
    monkeypatch.setattr("coderv2.training.loop.share_done", lambda *_: next(reported) / 6)
    with pytest.raises(StopIteration):
        train(killed, shard, run, tmp_path / "killed")
    monkeypatch.undo()
    resumed = fresh()
    progress = train(resumed, shard, run, tmp_path / "killed")
    assert progress.step == 6
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_resumed_run_knows_the_gradient_norms_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coderv2.training.monitor.MEMORY", 4)
    shard, folder = Shard(counting_shard(tmp_path / "shard")), tmp_path / "run"
    train(fresh(), shard, RunConfig(steps=4, row_tokens=64, rows_per_step=1), folder)
    shrunk = RunConfig(steps=5, row_tokens=64, rows_per_step=1, log_every=1, balance_alpha=1e6)
    train(fresh(), shard, shrunk, folder)
    assert logged(folder)[-1]["skipped"] == 1


def test_the_first_and_the_last_step_are_logged(tmp_path: Path) -> None:
    run = RunConfig(steps=5, row_tokens=64, rows_per_step=1, log_every=3)
    train(fresh(), Shard(counting_shard(tmp_path / "shard")), run, tmp_path / "run")
    assert [line["step"] for line in logged(tmp_path / "run")] == [1, 3, 5]


def test_a_runs_settings_stand_in_its_log(tmp_path: Path) -> None:
    shard, run = Shard(counting_shard(tmp_path / "shard")), override(RUN, ["steps=1", "optim.lr=2.5e-7"])
    train(fresh(), shard, run, tmp_path / "run")
    first = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert first == {"step": 0, "settings": settings(run), "shard": shard.fingerprint}
    assert first["settings"]["optim.lr"] == 2.5e-7


def test_a_run_that_goes_on_with_other_settings_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shard, run = Shard(counting_shard(tmp_path / "shard")), override(RUN, ["steps=1"])
    train(fresh(), shard, run, tmp_path / "run")
    train(fresh(), shard, run, tmp_path / "run")
    assert "other settings" not in caplog.text
    train(fresh(), shard, override(run, ["steps=2", "optim.lr=0.5"]), tmp_path / "run")
    assert "other settings: steps=2 (was 1), optim.lr=0.5 (was 0.003)" in caplog.text


def test_a_run_does_not_go_on_with_another_shard_or_model(tmp_path: Path) -> None:
    shard, folder = Shard(counting_shard(tmp_path / "shard")), tmp_path / "run"
    train(fresh(), shard, override(RUN, ["steps=1"]), folder)
    with pytest.raises(BadCheckpoint, match="another shard"):
        train(fresh(), Shard(counting_shard(tmp_path / "other", examples=3)), RUN, folder)
    deeper = tiny_model(tiny_config(num_hidden_layers=4)).requires_grad_()
    with pytest.raises(BadCheckpoint, match="a model of another shape"):
        train(deeper, shard, RUN, folder)


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    shard = Shard(counting_shard(tmp_path / "shard"))
    run = RunConfig(steps=2, row_tokens=64, rows_per_step=1)
    trained, again = fresh(), fresh()
    train(trained, shard, run, tmp_path / "run")
    assert train(again, shard, run, tmp_path / "run").step == 2
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), again.parameters(), strict=True))


def test_a_run_ends_by_steps_or_by_the_clock() -> None:
    progress = Progress(step=5, seconds=30.0)
    assert share_done(progress, RunConfig(steps=10)) == 0.5
    assert share_done(progress, RunConfig(minutes=2.0)) == 0.25
    assert share_done(progress, RunConfig(steps=10, minutes=0.5)) == 1.0


@pytest.mark.parametrize("run", [RunConfig(steps=0), RunConfig(minutes=0.0), RunConfig(steps=9, minutes=0.0)])
def test_a_run_of_no_steps_or_no_minutes_is_over_at_once(tmp_path: Path, run: RunConfig) -> None:
    assert train(fresh(), Shard(counting_shard(tmp_path / "shard")), run, tmp_path / "run").step == 0


def test_a_step_with_a_gradient_that_is_no_number_changes_nothing(tmp_path: Path) -> None:
    model = fresh()
    with torch.no_grad():
        model.lm_head[7] = float("nan")
    kept = model.embed_tokens.clone()
    run = RunConfig(steps=1, row_tokens=64, rows_per_step=1)
    train(model, Shard(counting_shard(tmp_path / "shard")), run, tmp_path / "run")
    assert torch.equal(model.embed_tokens, kept)
    assert logged(tmp_path / "run")[0]["skipped"] == 1
