"""The reader under bytes that no writer of ours made."""

import contextlib
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from coderv2.errors import CoderV2Error
from coderv2.model.tensorfile import TensorFile

GOOD = save(
    {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16), "none": torch.zeros(0)}
)


def _read_all(raw: bytes) -> dict[str, torch.Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(raw)
        file = TensorFile(path)
        try:
            tensors = {name: torch.zeros(entry.shape) for name, entry in file.entries.items()}
            for name, tensor in tensors.items():
                file.read_into(name, tensor)
        finally:
            file.close()
    return tensors


def test_reads_what_the_library_wrote() -> None:
    tensors = _read_all(GOOD)
    assert torch.equal(tensors["a"], torch.arange(6.0).view(2, 3))
    assert torch.equal(tensors["b"], torch.ones(4))
    assert tensors["none"].numel() == 0


@pytest.mark.parametrize("padding", range(1, 5))
def test_reads_files_whose_header_leaves_data_unaligned(padding: int) -> None:
    length = int.from_bytes(GOOD[:8], "little")
    raw = (
        (length + padding).to_bytes(8, "little") + GOOD[8 : 8 + length] + b" " * padding + GOOD[8 + length :]
    )
    assert torch.equal(_read_all(raw)["a"], torch.arange(6.0).view(2, 3))


@given(st.data())
@settings(max_examples=400)
def test_any_flipped_cut_or_grown_file_is_read_or_refused(data: st.DataObject) -> None:
    raw = bytearray(GOOD)
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)) | st.just(len(raw)))
    try:
        _read_all(bytes(raw[:cut]) + data.draw(st.binary(max_size=4)))
    except CoderV2Error as error:
        assert "x.safetensors" in str(error)  # noqa: PT017


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_any_bytes_after_an_honest_header_length_are_read_or_refused(header: bytes) -> None:
    with contextlib.suppress(CoderV2Error):
        _read_all(len(header).to_bytes(8, "little") + header)
