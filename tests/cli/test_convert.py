"""coderv2 convert."""

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from coderv2.model import weights
from coderv2.model.batch import Batch
from coderv2.text.tokenizer import Tokenizer
from tests.cli.conftest import RunCommand


def test_transformers_opens_the_folder_with_the_same_tokens_and_logits(
    command: RunCommand, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "model"
    outcome = command("convert", tiny_checkpoint, out, "--max-shard-size", "500KB")
    assert outcome.code == 0
    assert str(out) in outcome.out
    text = "def quick_sort(values):\n    return 你好"
    ids = Tokenizer.from_folder(tiny_checkpoint).encode(text, bos=True)
    assert AutoTokenizer.from_pretrained(out)(text)["input_ids"] == ids
    theirs = AutoModelForCausalLM.from_pretrained(out)
    assert theirs.generation_config.eos_token_id == Tokenizer.from_folder(tiny_checkpoint).eos_id
    with torch.inference_mode():
        expected_TW = weights.load(tiny_checkpoint)(Batch.packed([ids]))
        torch.testing.assert_close(theirs(torch.tensor([ids])).logits[0], expected_TW, rtol=2e-4, atol=2e-4)
    assert len(list(out.glob("*.safetensors"))) == 3


def test_the_number_format_can_be_chosen(command: RunCommand, tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert command("convert", tiny_checkpoint, tmp_path / "out", "--dtype", "bfloat16").code == 0
    assert weights.load(tmp_path / "out").dtype == torch.bfloat16


def test_licence_card_and_sampling_defaults_come_along(
    command: RunCommand, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(tiny_checkpoint, source)
    files = {"generation_config.json": '{"temperature": 0.3}', "README.md": "card", "LICENSE": "terms"}
    for name, text in files.items():
        (source / name).write_text(text, "utf-8")
    (source / "modeling_x.py").write_text("code", "utf-8")
    assert command("convert", source, out).code == 0
    assert {name: (out / name).read_text("utf-8") for name in files} == files
    assert not (out / "modeling_x.py").exists()


def test_a_folder_with_files_is_only_written_to_by_force_and_then_old_weights_go(
    command: RunCommand, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    command("convert", tiny_checkpoint, tmp_path, "--max-shard-size", "500KB")
    (tmp_path / "notes.txt").write_text("mine", "utf-8")
    refused = command("convert", tiny_checkpoint, tmp_path)
    assert refused.code == 2
    assert "--force" in refused.err
    assert command("convert", tiny_checkpoint, tmp_path, "--force").code == 0
    assert [path.name for path in tmp_path.glob("model*")] == ["model.safetensors"]
    assert (tmp_path / "notes.txt").exists()
    weights.load(tmp_path)


def test_the_source_itself_and_files_are_refused(
    command: RunCommand, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    for out in (tiny_checkpoint, file):
        before = sorted(tiny_checkpoint.iterdir())
        assert command("convert", tiny_checkpoint, out, "--force").code == 2
        assert sorted(tiny_checkpoint.iterdir()) == before


@pytest.mark.parametrize("size", ["0GB", "5", "five GB", "-1GB", "5TB"])
def test_sizes_that_make_no_sense(
    command: RunCommand, tiny_checkpoint: Path, tmp_path: Path, size: str
) -> None:
    outcome = command("convert", tiny_checkpoint, tmp_path / "out", "--max-shard-size", size)
    assert outcome.code == 2
    assert not (tmp_path / "out").exists()


def test_a_source_without_a_tokenizer_leaves_nothing_behind(
    command: RunCommand, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_checkpoint, source)
    (source / "tokenizer.json").unlink()
    assert command("convert", source, tmp_path / "out").code == 2
    assert not (tmp_path / "out").exists()
    assert json.loads((source / "config.json").read_text("utf-8"))["model_type"] == "deepseek_v2"


@contextmanager
def _full_after(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [3000, 30_000])
@pytest.mark.parametrize("arguments", [["out"], ["out", "--pack"], ["out.gguf"]])
def test_a_full_disk_is_one_line_that_names_out_and_nothing_stays(
    command: RunCommand, tiny_checkpoint: Path, tmp_path: Path, arguments: list[str], size: int
) -> None:
    out = tmp_path / arguments[0]
    with _full_after(size):
        outcome = command("convert", tiny_checkpoint, out, *arguments[1:])
    assert outcome.code != 0
    assert str(out) in outcome.err.splitlines()[-1]
    assert "Traceback" not in outcome.err
    assert not list(tmp_path.iterdir())


def test_a_full_disk_takes_nothing_that_is_not_of_the_conversion(
    command: RunCommand, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine", "utf-8")
    with _full_after(30_000):
        assert command("convert", tiny_checkpoint, tmp_path, "--force").code != 0
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
