"""Checksums see damage, in both implementations alike; what was mapped moves without anybody seeing it."""

import sys
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


@pytest.mark.parametrize("size", [1, 8, 4097, (1 << 20) + 13, (1 << 24) + 5])
def test_with_and_without_the_kernels_alike(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = torch.randint(0, 256, (size,), dtype=torch.uint8)
    ours = memory.checksum(data)
    monkeypatch.setattr(memory, "kernels", None)
    assert memory.checksum(data) == ours


needs_kernels = pytest.mark.skipif(memory.kernels is None, reason="the CPU kernels are not built")


def _mapped(path: Path, data: bytes) -> torch.Tensor:
    path.write_bytes(data)
    with path.open("rb") as file:
        return memory.mapped_bytes(file.fileno())


@pytest.mark.parametrize("size", [100, 5 << 20, (140 << 20) + 17])
def test_settled_bytes_are_the_same_at_the_same_place(size: int, tmp_path: Path) -> None:
    data = torch.randint(0, 256, (size,), dtype=torch.uint8)
    mapped = _mapped(tmp_path / "file", bytes(data.numpy()))
    place = mapped.data_ptr()
    memory.settle(mapped)
    memory.settled()
    assert mapped.data_ptr() == place
    assert torch.equal(mapped, data)


@needs_kernels
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux moves pages")
def test_settled_bytes_no_longer_hang_on_the_file(tmp_path: Path) -> None:
    data = torch.randint(0, 256, (8 << 20,), dtype=torch.uint8)
    mapped = _mapped(tmp_path / "file", bytes(data.numpy()))
    memory.settle(mapped)
    memory.settled()
    begin = -mapped.data_ptr() % (2 << 20)
    with (tmp_path / "file").open("r+b") as file:
        file.write(bytes(8 << 20))
    moved = slice(begin, begin + (8 << 20) - (2 << 20))
    assert torch.equal(mapped[moved], data[moved])


@needs_kernels
def test_readers_see_the_bytes_while_they_move(tmp_path: Path) -> None:
    data = torch.randint(0, 256, (192 << 20,), dtype=torch.uint8)
    mapped = _mapped(tmp_path / "file", bytes(data.numpy()))
    wanted = memory.checksum(data)
    memory.settle(mapped)
    assert all(memory.checksum(mapped) == wanted for _ in range(20))
    memory.settled()


@needs_kernels
def test_nothing_moves_where_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = _mapped(tmp_path / "file", bytes(4 << 20))
    monkeypatch.setattr(memory.ram, "free_bytes", lambda: 4 << 20)
    memory.settle(mapped)
    assert not memory._settling


def test_memory_taken_in_inference_mode_may_be_written_outside_of_it() -> None:
    """Weights are cut from chunks; one that a pass began could not be written when a model was opened later."""
    with torch.inference_mode():
        taken = memory.fresh_bytes(100)[:10]
    torch.index_select(torch.ones(10, dtype=torch.uint8), 0, torch.arange(10), out=taken)
    assert int(taken.sum()) == 10
