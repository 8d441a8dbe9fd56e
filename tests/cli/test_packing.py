"""coderv2 convert --pack and --weights."""

import json
from pathlib import Path

import pytest

from coderv2.model.loading import open_model
from tests.cli.conftest import RunCommand


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A small text to calibrate with."""
    path = tmp_path / "text.py"
    path.write_text("\n".join(f"def f{i}(x): return x + {i}" for i in range(120)), "utf-8")
    return path


def test_a_packed_folder_answers_as_its_source_does(
    command: RunCommand, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "packed"
    outcome = command("convert", tiny_checkpoint, out, "--pack")
    assert outcome.code == 0
    assert f"-m {out}" in outcome.out
    answers = [
        command("complete", "-m", folder, "def f(x):", "--max-tokens", 8, "--temperature", 0)
        for folder in (tiny_checkpoint, out)
    ]
    assert answers[0].code == answers[1].code == 0
    assert answers[0].out == answers[1].out
    assert command("doctor", "-m", out).code == 0


@pytest.mark.parametrize("format", ["int4", "fp8"])
def test_a_quantised_folder_opens_and_its_report_is_printed_and_kept(
    command: RunCommand, tiny_checkpoint: Path, tmp_path: Path, text: Path, format: str
) -> None:
    out = tmp_path / "small"
    outcome = command("convert", tiny_checkpoint, out, "--weights", format, "--calibration", text)
    assert outcome.code == 0, outcome.err
    report = json.loads((out / "quantisation.json").read_text("utf-8"))
    assert report["text"] == str(text)
    assert f"{report['kl']:.5f}" in outcome.out
    assert len(report["layers"]) == 3
    assert {weight.format.name for weight in open_model(out).weights()} >= {"f32", format}
    assert command("complete", "-m", out, "def f(x):", "--max-tokens", 4).code == 0


def test_back_to_safetensors_and_over_an_older_folder(
    command: RunCommand, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    packed, plain = tmp_path / "packed", tmp_path / "plain"
    assert command("convert", tiny_checkpoint, packed, "--weights", "bf16", "--no-report").code == 0
    assert command("convert", packed, plain).code == 0
    assert "quantization_config" not in (plain / "config.json").read_text("utf-8")
    assert command("convert", tiny_checkpoint, packed, "--force").code == 0
    assert not list(packed.glob("*.packed"))
    assert command("convert", tiny_checkpoint, packed, "--pack", "--force").code == 0
    assert not list(packed.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--pack", "--weights", "int4"), "choose one"),
        (("--calibration", "x"), "--weights"),
        (("--no-report",), "--weights"),
        (("--pack", "--dtype", "float32"), "--dtype"),
        (("--weights", "int8", "--max-shard-size", "1GB"), "--max-shard-size"),
        (("--weights", "int8", "--no-report", "--calibration", "x"), "no use"),
        (("--weights", "int4", "--calibration", "nowhere"), "nowhere"),
    ],
)
def test_options_that_do_not_go_together(
    command: RunCommand, tiny_checkpoint: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    outcome = command("convert", tiny_checkpoint, tmp_path / "out", *options)
    assert outcome.code == 2
    assert message in outcome.err
    assert not (tmp_path / "out").exists()


def test_what_is_packed_is_not_packed_again(
    command: RunCommand, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    command("convert", tiny_checkpoint, tmp_path / "packed", "--pack")
    outcome = command("convert", tmp_path / "packed", tmp_path / "again", "--weights", "int8", "--no-report")
    assert outcome.code == 2
    assert "packed already" in outcome.err


def test_a_packed_folder_as_gguf_is_told_the_way_by_safetensors(
    command: RunCommand, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """It was "weights in kernel order, which only running opens, not training", and nobody trained."""
    packed = tmp_path / "packed"
    assert command("convert", tiny_checkpoint, packed, "--pack").code == 0
    outcome = command("convert", packed, tmp_path / "a.gguf")
    assert outcome.code == 2
    assert f"`coderv2 convert {packed} OUT` writes them as safetensors first" in outcome.err
