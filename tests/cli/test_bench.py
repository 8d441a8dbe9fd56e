"""coderv2 bench."""

import json
from pathlib import Path

import pytest
import torch

from coderv2.engine.bench import Bench
from coderv2.kernels import probe
from coderv2.model.gguf_export import export
from coderv2.model.gguf_types import FILE_TYPES
from coderv2.paths import bundled_model
from tests.cli.conftest import RunCommand

FEW = ("--prompts", "8", "--depths", "0", "--batches", "1,2", "--rounds", "1")


@pytest.fixture(autouse=True)
def _measures_little(monkeypatch: pytest.MonkeyPatch) -> None:
    roof = probe.Roof(1, 4e10, 3e10, 4096, {"fp32": 1e11, "bf16": 2e11, "int8": 4e11})
    monkeypatch.setattr(probe, "measure", lambda count, **sizes: roof)


def test_it_prints_a_table_and_keeps_everything(
    command: RunCommand, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "result.json"
    outcome = command("bench", "-m", tiny_checkpoint, *FEW, "--json", kept)
    assert outcome.code == 0, outcome.err
    for part in (
        "Machine",
        "Load",
        "prompt of 8",
        "answer after 0",
        "2 answers after 256",
        "Through the engine",
    ):
        assert part in outcome.out
    assert "prompt of 8: " in outcome.err
    record = json.loads(kept.read_text("utf-8"))
    assert [case["name"] for case in record["cases"]] == [
        "prompt of 8",
        "answer after 0",
        "answer after 256",
        "2 answers after 256",
    ]
    assert all(case["tokens_per_second"] > 0 for case in record["cases"])
    assert {"date", "machine", "versions", "roofs", "load_seconds", "peak_bytes"} <= record.keys()
    if probe.available():
        assert "30.0 GB/s in random blocks" in outcome.out
        assert all(case["bound_by"] in ("memory", "arithmetic") for case in record["cases"])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--prompts", "8,x"), "whole numbers of at least 1"),
        (("--batches", "0"), "whole numbers of at least 1"),
        (("--peer",), "--peer needs a GGUF file"),
        (("--peer-python", "python3"), "--peer-python is for --peer"),
    ],
)
def test_what_cannot_be_honoured_is_one_line(
    command: RunCommand, tiny_checkpoint: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    outcome = command("bench", "-m", tiny_checkpoint, *arguments)
    assert outcome.code == 2
    assert complaint in outcome.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_tune_needs_a_gpu(command: RunCommand) -> None:
    outcome = command("bench", "--tune")
    assert outcome.code == 2
    assert "no GPU here" in outcome.err


def test_tune_goes_alone(command: RunCommand, tiny_checkpoint: Path) -> None:
    for more in (("-m", tiny_checkpoint), ("--quick",), ("--prompts", "8")):
        outcome = command("bench", "--tune", *more)
        assert outcome.code == 2
        assert "--tune goes alone" in outcome.err


def test_a_file_that_cannot_be_written_is_told_before_anything_is_timed(
    command: RunCommand, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bench, "run", lambda *_: pytest.fail("it was timed"))
    outcome = command("bench", "-m", tiny_checkpoint, "--json", tmp_path / "no" / "result.json")
    assert outcome.code == 2
    assert "result.json: No such file or directory" in outcome.err


def test_a_peer_that_is_not_there_is_told_before_anything_is_timed(
    command: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(bundled_model(), tmp_path / "small.gguf", FILE_TYPES["bf16"], name="small")
    monkeypatch.setattr(Bench, "run", lambda *_: pytest.fail("it was timed"))
    outcome = command("bench", "-m", tmp_path / "small.gguf", "--peer", "--peer-python", "/no/python")
    assert outcome.code == 2
    assert "--peer-python /no/python: No such file" in outcome.err
