"""The GPU's benchmark: what its figures count, and that nothing which ends it takes away what was measured."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import gpu, gpu_model, gpu_table, journal
from benchmarks.gpu_model import FORMATS, SMALL, TINY, Goal
from benchmarks.journal import BROKEN, Journal, begun, places
from coderv2.model.batch import Batch
from coderv2.model.config import ModelConfig

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files lie elsewhere."""
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(journal, "RESULTS", tmp_path / "results")
    monkeypatch.setenv("OUT", str(tmp_path / "out"))


@dataclass
class CheapModel:
    """Always the same token; notes how many rows each pass wants logits of."""

    rows: list[int] = field(default_factory=list)
    fails: bool = False

    config = ModelConfig.from_dict(TINY)
    dtype = cache_dtype = torch.float32
    device = torch.device("cpu")

    def named_parameters(self) -> tuple[()]:
        return ()

    def __call__(self, batch: Batch, /) -> Tensor:
        if self.fails:
            raise RuntimeError("out of memory")
        assert batch.logits_rows is not None
        self.rows.append(len(batch.logits_rows))
        return torch.zeros(self.rows[-1], self.config.vocab_size)


RUN = replace(SMALL, steps=3, most=16)
CROWD = Goal(6, 40, 0, 100)
"""Whose prompts need 24 passes or more, since each that answers already takes a token of every one."""


def test_all_answer_while_it_is_timed_and_what_came_is_counted() -> None:
    model = CheapModel()
    found = gpu_model.decode(RUN, model, torch.float32, CROWD)
    timed = gpu_model.WINDOWS * RUN.steps
    assert found["tokens"] == CROWD.batch * timed
    assert model.rows[-timed:] == [CROWD.batch] * timed
    assert found["share of bound"] == pytest.approx(found["tokens/s"] / 100)


def test_answers_that_end_too_soon_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    submit = gpu_model._submit
    monkeypatch.setattr(gpu_model, "_submit", lambda engine, words, goal, _: submit(engine, words, goal, 19))
    with pytest.raises(RuntimeError, match="sequences answer, not 6"):
        gpu_model.decode(RUN, CheapModel(), torch.float32, CROWD)


def test_a_pass_that_fails_is_an_error_and_not_a_speed() -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        gpu_model.decode(RUN, CheapModel(fails=True), torch.float32, CROWD)


def test_one_figure_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    made = gpu_model.decode

    def decode(run: gpu_model.Run, model: object, cache: torch.dtype, goal: Goal) -> dict[str, object]:
        if goal.batch == 2:
            raise MemoryError("too many")
        return made(run, CheapModel(), cache, goal)

    monkeypatch.setattr(gpu_model, "decode", decode)
    monkeypatch.setattr(gpu_model, "prefill", lambda run, model: {"tokens/s": 1.0})
    run = replace(RUN, goals=lambda _: [Goal(batch, 20, 0, 1) for batch in (1, 2, 3)])
    name = begun("gpu", ("torch", "no_such_package"))
    gpu_model.measure(run, "bf16", Journal(*places(name)))
    for path in places(name):
        first, *lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert first["versions"]["no_such_package"] is None
        assert [line.get("batch") for line in lines] == [None, 1, 2, 3]
        assert ["error" in line for line in lines] == [False, False, True, False]
    again = Journal(*places(name))
    again.attempt({"what": "decode", "batch": 3}, lambda: pytest.fail("measured twice"))
    assert [line["error"] for line in again.failed] == ["MemoryError: too many"]


def test_a_process_that_can_measure_no_more_ends_after_its_line() -> None:
    lines = Journal(*places("lines"), broken=lambda: True)
    lines.attempt({"what": "one"}, lambda: {"µs": 1.0})
    with pytest.raises(SystemExit) as ended:
        lines.attempt({"what": "two"}, lambda: {"µs": 1 / 0})
    assert ended.value.code == BROKEN
    assert len(Journal(*places("lines")).failed) == 1


PART = """
import json, sys, time
part, _, name = sys.argv[1:]
path = {path!r}
with open(path) as file:
    before = [json.loads(line)["part"] for line in file]
print(part, before)
if part == "bf16":
    time.sleep(60)
with open(path, "a") as file:
    file.write(json.dumps({{"part": part, "what": len(before)}}) + "\\n")
sys.exit(3 if part == "fp8" and before.count("fp8") < 2 else 0)
"""


def test_a_part_that_hangs_is_ended_and_one_that_breaks_goes_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = places("lines")[0]
    path.touch()
    monkeypatch.setattr(gpu, "LIMITS", gpu.LIMITS | {"bf16": 1.0})
    command = (sys.executable, "-c", PART.format(path=str(path)))
    begin = time.monotonic()
    assert not gpu.in_processes(("tests", "bf16", "fp8", "peer"), 1, "lines", command)
    assert time.monotonic() - begin < 30
    kept = [json.loads(line)["part"] for line in path.read_text().splitlines()]
    assert kept == ["tests", "fp8", "fp8", "fp8", "peer"]
    assert "bf16 --journal lines: out of time" in capfd.readouterr().out


def test_parts_without_time_are_not_begun(capfd: pytest.CaptureFixture[str]) -> None:
    assert not gpu.in_processes(("peer",), 0, "lines", (sys.executable, "-c", "raise SystemExit(0)"))
    assert "peer: not begun, out of time" in capfd.readouterr().out


def test_a_part_that_breaks_without_a_line_is_not_begun_again(capfd: pytest.CaptureFixture[str]) -> None:
    script = "print('begun'); raise SystemExit(3)"
    assert not gpu.in_processes(("peer",), 1, "lines", (sys.executable, "-c", script))
    assert capfd.readouterr().out.count("begun") == 1


def test_the_table_sets_figures_beside_goals_and_beside_each_other() -> None:
    goals = [goal for goal in FORMATS["bf16"][2] if goal.batch == 1]
    lines: list[journal.Line] = [
        {"part": "bf16", **goal.what, "tokens/s": speed, "least": goal.least, "bound": goal.bound, "peak, GB": 40.0}
        for goal, speed in zip(goals, (500.0, 450.0), strict=True)
    ]  # fmt: skip
    lines += [
        {"part": "transformers", "what": "decode", "batch": 1, "context": 512, "tokens/s": 25.0, "peak, GB": 50.0},
        {"part": "bf16", "what": "prefill", "prompt": 4096, "tokens/s": 80_000.0, "least": 70_000},
        {"part": "transformers", "what": "prefill", "prompt": 4096, "tokens/s": 20_000.0},
        {"part": "tests", "what": "pytest", "error": "RuntimeError: 1 failed"},
    ]  # fmt: skip
    said = [" ".join(line.split()) for line in gpu_table.table(lines).splitlines()]
    assert "bf16 decode 1 at 32768, tokens/s bf16 decode 1 at 512, tokens/s 0.9 0.85" in said
    assert "bf16 decode 1 at 512, tokens/s transformers decode 1 at 512, tokens/s 20 8" in said
    assert "bf16 decode 1 at 512, peak, GB transformers decode 1 at 512, peak, GB 0.8 below 1" in said
    assert "bf16 prefill, tokens/s transformers prefill, tokens/s 4 2" in said
    assert "tests pytest RuntimeError: 1 failed" in said


@pytest.mark.slow
def test_every_part_runs_in_small() -> None:
    pytest.importorskip("triton", reason="Triton is not installed: pip install 'coderv2[gpu]'")
    results = ROOT / "benchmarks" / "results"
    before = sorted(results.iterdir())
    command = [sys.executable, "-m", "benchmarks.gpu", "tiny"]
    said = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT, env=dict(os.environ)
    ).stdout
    for part in ("bf16", "fp8", "int4", "transformers", "mixture 20 tokens, int4"):
        assert part in said
    assert "error" not in said
    assert sorted(results.iterdir()) == before, "figures that mean nothing are not kept"


ALONE = """
import signal, sys
from benchmarks import gpu
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
gpu._ended([sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"], 60)
"""


def test_a_part_does_not_outlive_who_started_it() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ALONE], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as starter:
        assert starter.stdout is not None
        part = int(starter.stdout.readline())
        starter.terminate()
    with pytest.raises(ProcessLookupError):
        os.kill(part, 0)
