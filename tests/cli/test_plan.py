"""coderv2 plan, and the options that have experts in RAM."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import RunCommand
from tests.published import FULL, LITE

GPU = ("--gpu-bandwidth", 1000, "--gpu-tflops", 160, "--ram-bandwidth", 80, "--cpu-gflops", 2000)


@pytest.fixture(params=["lite", "full"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A config is all that a plan needs."""
    (tmp_path / "config.json").write_text(json.dumps(LITE if request.param == "lite" else FULL))
    return tmp_path


@pytest.mark.parametrize("bits", [(), ("--quantization", "fp8"), ("--quantization", "int4")])
def test_it_tells_what_goes_where_and_how_fast(
    command: RunCommand, folder: Path, bits: tuple[str, ...]
) -> None:
    outcome = command("plan", "-m", folder, "--gpu-memory", "40G", "--ram", "1T", *bits, *GPU)
    assert outcome.code == 0, outcome.err
    for part in ("GPU ", "that every token uses", "experts", "cache", "RAM ", "tokens/s of one"):
        assert part in outcome.out


def test_too_little_memory_is_one_line_with_ways_out(command: RunCommand, folder: Path) -> None:
    outcome = command("plan", "-m", folder, "--gpu-memory", "2G", "--ram", "1T", *GPU)
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1
    assert "even what every token uses" in outcome.err


def test_speeds_that_nobody_measured_are_not_made_up(command: RunCommand, folder: Path) -> None:
    outcome = command("plan", "-m", folder, "--gpu-memory", "60G", "--ram", "1T")
    assert outcome.code == 0
    assert "give --gpu-bandwidth and --gpu-tflops" in outcome.out


def test_without_a_gpu_its_memory_must_be_given(command: RunCommand, folder: Path) -> None:
    outcome = command("plan", "-m", folder)
    assert outcome.code == 2
    assert "--gpu-memory 24G" in outcome.err


def test_it_counts_and_then_plans_by_the_counts(
    command: RunCommand, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    text, usage = tmp_path / "code.py", tmp_path / "usage.json"
    text.write_text("def add(a, b):\n    return a + b\n" * 100)
    sizes = ("--gpu-memory", "1G", "--ram", "1G", "--max-model-len", 64)
    plain = command("plan", "-m", tiny_checkpoint, *sizes)
    assert "nothing was counted" in plain.out
    counted = command(
        "plan", "-m", tiny_checkpoint, *sizes, "--count", "--text", text, "--expert-usage", usage
    )
    assert counted.code == 0, counted.err
    assert "the most used" in counted.out
    assert set(json.loads(usage.read_text())["counts"]) == {"1", "2"}
    refused = command("plan", "-m", tiny_checkpoint, *sizes, "--text", text)
    assert refused.code == 2
    assert "goes with --count" in refused.err


@pytest.mark.parametrize("name", ["complete", "serve"])
@pytest.mark.parametrize("option", [("--gpu-memory", "4G"), ("--experts", "ram")])
def test_on_the_cpu_such_options_are_refused(
    command: RunCommand, tiny_checkpoint: Path, name: str, option: tuple[str, str]
) -> None:
    more = ["x"] if name == "complete" else ["--port", "0"]
    outcome = command(name, *more, "-m", tiny_checkpoint, "--device", "cpu", *option)
    assert outcome.code == 2
    assert "here the model is on the CPU" in outcome.err


def test_other_engines_place_their_weights_themselves(command: RunCommand, tiny_checkpoint: Path) -> None:
    outcome = command("serve", "-m", tiny_checkpoint, "--engine", "vllm", "--gpu-memory", "4G")
    assert outcome.code == 2
    assert "--gpu-memory: for what is computed here" in outcome.err


def test_counts_that_are_not_there_are_refused(command: RunCommand, tmp_path: Path) -> None:
    outcome = command("plan", "--gpu-memory", "1G", "--expert-usage", tmp_path / "nope.json")
    assert outcome.code == 2
    assert "nope.json: no such file" in outcome.err


def test_counting_writes_nothing_into_the_installed_package(command: RunCommand) -> None:
    outcome = command("plan", "--gpu-memory", "1G", "--count")
    assert outcome.code == 2
    assert "needs --expert-usage FILE" in outcome.err


def test_a_place_that_cannot_be_written_is_told_before_counting(command: RunCommand, tmp_path: Path) -> None:
    outcome = command(
        "plan", "--gpu-memory", "1G", "--count", "--expert-usage", tmp_path / "no" / "counts.json"
    )
    assert outcome.code == 2
    assert "cannot be written" in outcome.err
