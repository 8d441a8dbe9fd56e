"""Damaged GGUF files, made by chance: each is read or refused by one error. `tests/fuzz_gguf.py` goes on for hours."""

import tempfile
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from hypothesis import given, settings
from hypothesis import strategies as st

from coderv2.errors import CoderV2Error
from coderv2.model import gguf
from coderv2.model.batch import Batch
from tests.gguf_pieces import damaged
from tests.model.gguf_files import needs_kernels, write_gguf
from tests.tiny import tiny_config, tiny_model
from tests.tiny_tokenizer import VOCAB_SIZE, tiny_tokenizer_folder

LONGEST_MESSAGE = 2000
_MICRO = {"num_hidden_layers": 2, "hidden_size": 32, "vocab_size": VOCAB_SIZE, "intermediate_size": 32}


def seeds(folder: Path) -> list[bytes]:
    """Whole small files: both generations of tensors, both families, several types."""
    tokenizer = tiny_tokenizer_folder(folder)
    lite = tiny_model(tiny_config(**_MICRO, n_routed_experts=4, num_experts_per_tok=2))
    full = tiny_model(tiny_config("full", **_MICRO, n_routed_experts=8, num_experts_per_tok=3))
    files = (
        write_gguf(folder / "a.gguf", lite, kind=Type.Q8_0, tokenizer=tokenizer, chat_template="{{ x }}"),
        write_gguf(folder / "b.gguf", lite, kind=Type.Q4_0, tokenizer=tokenizer, old=True),
        write_gguf(folder / "c.gguf", full, kind=Type.BF16, tokenizer=tokenizer),
    )
    return [file.read_bytes() for file in files]


def read_all(path: Path) -> str:
    """Everything that a program does with a file; "" when all went well, else the error's message."""
    try:
        gguf.read_config(path)
        gguf.read_tokenizer(path).encode("def f(x):\n    return x+1\n", bos=True)
        model = gguf.load(path)
        with torch.inference_mode():
            model(Batch.packed([[i % model.config.vocab_size for i in (1, 2, 3)]]))
    except CoderV2Error as error:
        message = str(error)
        assert str(path) in message, message
        assert len(message) < LONGEST_MESSAGE, f"{len(message)} characters: {message[:300]}"
        assert message.isprintable(), repr(message)
        return message
    return ""


@pytest.fixture(scope="module")
def whole() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return seeds(Path(folder))


@needs_kernels
def test_undamaged_files_are_read(whole: list[bytes], tmp_path: Path) -> None:
    for raw in whole:
        (tmp_path / "x.gguf").write_bytes(raw)
        assert read_all(tmp_path / "x.gguf") == ""


@needs_kernels
@given(which=st.integers(0, 2), seed=st.integers(0, 1 << 32))
@settings(max_examples=300)
def test_any_damaged_file_is_read_or_refused(whole: list[bytes], which: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.gguf")
        path.write_bytes(damaged(whole[which], seed))
        read_all(path)
