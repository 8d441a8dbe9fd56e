"""What is measured, in which order, and what becomes of it."""

import sys
from pathlib import Path

import pytest

from coderv2.engine import bench
from coderv2.engine.bench import Bench, Case, Plan, Report, Side
from coderv2.kernels import probe
from coderv2.kernels.probe import Roof
from coderv2.model.cost import Work
from coderv2.model.loading import open_model, open_tokenizer

PLAN = Plan(prompts=(8,), depths=(0, 20), batches=(2,), steps=2, rounds=2)
ROOF = Roof(1, 1e9, 1e9, 4096, {"fp32": 1e9, "bf16": 1e9, "int8": 1e9})


@pytest.fixture(autouse=True)
def _measures_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "measure", lambda count, **sizes: ROOF)


def test_every_case_is_measured_in_every_round(tiny_checkpoint: Path) -> None:
    said: list[str] = []
    report = Bench(tiny_checkpoint, PLAN, 1, said.append).run(100_000)
    names = ["prompt of 8", "answer after 0", "answer after 20", "2 answers after 256"]
    assert [case.name for case in report.cases] == names
    assert all(len(report.ours.seconds[case]) == 2 for case in report.cases)
    assert len(report.ours.loads) == 1
    assert report.weight_bytes == sum(report.formats.values()) > 0
    assert report.ours.peak > report.weight_bytes
    assert sum(name in line for line in said for name in names) == 8
    if probe.available():
        assert all((report.bound(case) or (0,))[0] > 0 for case in report.cases)


def test_what_is_longer_than_the_models_context_is_left_out(tiny_checkpoint: Path) -> None:
    report = Bench(tiny_checkpoint, PLAN, 1, lambda line: None).run(100)
    assert [case.name for case in report.left_out] == ["2 answers after 256"]
    assert set(report.ours.seconds) == set(report.cases)


def test_a_peer_takes_turns_on_the_same_cases(
    monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "fake_peer"))
    monkeypatch.setattr(bench, "open_model", lambda path: open_model(tiny_checkpoint))
    monkeypatch.setattr(bench, "open_tokenizer", lambda path: open_tokenizer(tiny_checkpoint))
    file = tmp_path / "model.gguf"
    file.write_bytes(b"0123456789")
    said: list[str] = []
    report = Bench(file, PLAN, 1, said.append, sys.executable).run(100_000)
    assert report.peer is not None
    assert report.peer_version == "0.0-fake"
    assert report.peer_repacks
    for side in (report.ours, report.peer):
        assert len(side.loads) == 2
        assert {case: len(seconds) for case, seconds in side.seconds.items()} == dict.fromkeys(
            report.cases, 2
        )
    turns = [line.startswith("llama.cpp") for line in said if line.endswith("loading")]
    assert turns == [False, True, False, True]


def test_speed_is_the_median_and_the_bound_what_takes_longer() -> None:
    case = Case("steps", 4, sequences=2, depth=10)
    report = Report([case], [], Side({case: [1.0, 2.0, 40.0]}), roofs=[ROOF])
    report.work[case] = Work(5e8, {"int8": 1e8})
    assert report.ours.speed(case) == 4
    assert report.bound(case) == (4.0, "memory")
    report.work[case] = Work(5e8, {"int8": 1e9, "fp32": 0.5e9})
    assert report.bound(case) == (pytest.approx(8 / 12), "arithmetic")


def test_without_kernels_there_is_no_bound() -> None:
    case = Case("prompt", 4)
    assert Report([case], []).bound(case) is None
    assert Side().speed(case) is None
