"""coderv2 doctor."""

from pathlib import Path

import pytest
import torch

from coderv2.cli.doctor import describe, gb, settings, table
from coderv2.engine import fit, machine
from coderv2.engine.machine import Machine, Speed
from coderv2.kernels import cpu
from coderv2.model import packed_file
from tests.cli.conftest import RunCommand
from tests.model.fp8_files import fp8_folder
from tests.tiny_tokenizer import tiny_tokenizer


@pytest.fixture(autouse=True)
def _measures_little(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = machine.inspect
    monkeypatch.setattr(machine, "inspect", lambda: whole(weight_bytes=4 << 20))


def test_it_tells_machine_fit_settings_and_what_was_tried(command: RunCommand, tiny_checkpoint: Path) -> None:
    outcome = command("doctor", "-m", tiny_checkpoint)
    assert outcome.code == 0
    assert not outcome.err
    for part in (
        "Processor",
        "Memory",
        "GPU",
        "GB/s",
        "DeepSeek-Coder-V2 (236B)",
        "dtype float32",
        "Tried here:",
    ):
        assert part in outcome.out


def test_a_model_that_does_not_fit_says_what_is_missing(
    command: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path
) -> None:
    (tmp_path / "config.json").write_text((tiny_checkpoint / "config.json").read_text("utf-8"), "utf-8")
    monkeypatch.setattr(machine, "free_bytes", lambda device: 1 << 20)
    outcome = command("doctor", "-m", tmp_path)
    assert outcome.code == 0
    assert "does not fit: 0.0" in outcome.out
    assert "more free memory is needed" in outcome.out


@pytest.mark.skipif(cpu.kernels is None, reason="quants are packed by the CPU kernels")
def test_a_packed_folder_is_sized_as_it_is_stored(command: RunCommand, tmp_path: Path) -> None:
    assert command("convert", "bundled", tmp_path / "packed", "--pack").code == 0
    outcome = command("doctor", "-m", tmp_path / "packed")
    row = next(line for line in outcome.out.splitlines() if line.startswith(str(tmp_path / "packed")))
    assert f"as stored  {gb(packed_file.weight_bytes(tmp_path / 'packed')):>9}" in row
    assert "dtype auto (as stored)" in outcome.out
    assert "Tried here:" in outcome.out


@pytest.mark.skipif(cpu.kernels is None, reason="FP8 stays so in the CPU kernels alone")
def test_an_fp8_checkpoint_is_sized_as_it_is_held(command: RunCommand, tmp_path: Path) -> None:
    """It was sized as bfloat16: nearly twice what it takes, and half as fast."""
    folder = tmp_path / "fp8"
    fp8_folder(folder, "block")
    tiny_tokenizer().save(folder)
    outcome = command("doctor", "-m", folder)
    assert "dtype auto (as stored)" in outcome.out
    assert "Tried here:" in outcome.out
    (folder / "model.safetensors").unlink()  # as of a hub name
    outcome = command("doctor", "-m", folder)
    assert "dtype auto (as stored)" in outcome.out
    assert "Tried here:" not in outcome.out


def test_a_folder_without_a_model_is_one_line(command: RunCommand, tmp_path: Path) -> None:
    outcome = command("doctor", "-m", tmp_path)
    assert outcome.code == 2
    assert "config.json" in outcome.err


def test_numbers_read_as_people_read_them() -> None:
    found = Machine(
        processor="Chip", cores=8, threads=4, instruction_sets=("avx2", "amx_bf16"), memory=64 * 10**9, free=50 * 10**9,
        device="cuda", gpu="Card", gpu_memory=80 * 10**9, gpu_free=79 * 10**9,
        speeds={torch.bfloat16: Speed(3.2e12, 7e14)},
    )  # fmt: skip
    lines = list(describe(found))
    assert lines[0] == "Processor   Chip, 8 cores; 4 threads for arithmetic"
    assert lines[1].strip() == "avx2 amx_bf16"
    assert lines[3] == "GPU         Card, 80 GB"
    chosen = fit.best_fit(fit.RELEASED[0], found)
    assert "bfloat16" in "\n".join(table([chosen]))
    assert "  652.7  " in "\n".join(table([chosen]))
    assert list(settings(chosen, found))[1] == "  dtype bfloat16, device cuda, 4 threads (CODERV2_THREADS)"
