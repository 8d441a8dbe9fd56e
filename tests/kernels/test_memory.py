"""Checksums see damage, in both implementations alike; files are read whole or not at all."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coderv2.kernels import memory


@given(st.binary(min_size=1, max_size=300), st.data())
@settings(max_examples=60, deadline=None)
def test_any_changed_byte_changes_the_checksum(data: bytes, draw: st.DataObject) -> None:
    at, bit = draw.draw(st.integers(0, len(data) - 1)), draw.draw(st.integers(0, 7))
    other = bytearray(data)
    other[at] ^= 1 << bit
    sums = [memory.checksum(torch.frombuffer(bytearray(d), dtype=torch.uint8)) for d in (data, other)]
    assert sums[0] != sums[1]


def test_words_that_change_places_are_seen() -> None:
    words = torch.tensor([5, 9, 9, 1], dtype=torch.int64)
    assert memory.checksum(words.view(torch.uint8)) != memory.checksum(
        words.flip(0).contiguous().view(torch.uint8)
    )


@pytest.mark.skipif(memory.kernels is None, reason="the CPU kernels are not built")
@pytest.mark.parametrize("size", [1, 8, 4097, (1 << 20) + 13, 3 << 20, (1 << 24) + 5])
def test_with_and_without_the_kernels_alike(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = torch.randint(0, 256, (size,), dtype=torch.uint8)
    path = tmp_path / "file"
    path.write_bytes(b"head" + bytes(data.numpy()))
    with path.open("rb") as file:
        ours = memory.read_bytes(file.fileno(), 4, size)
        monkeypatch.setattr(memory, "kernels", None)
        plain = memory.read_bytes(file.fileno(), 4, size)
    assert torch.equal(ours[0], data)
    assert torch.equal(plain[0], data)
    assert ours[1] == plain[1] == memory.checksum(data)


@pytest.mark.parametrize("native", [True, False])
def test_a_file_that_ends_too_soon(native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(memory, "kernels", None)
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    with path.open("rb") as file, pytest.raises(EOFError):
        memory.read_bytes(file.fileno(), 50, 51)
