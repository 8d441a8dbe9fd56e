"""The machine's own speed."""

import os

import pytest

from coderv2.kernels import probe

pytestmark = pytest.mark.skipif(not probe.available(), reason="the CPU kernels are not in use")


def test_what_is_measured_is_of_a_believable_size() -> None:
    before = probe.kernels.threads()
    for threads in (1, min(2, os.cpu_count() or 1)):
        roof = probe.measure(threads, block_bytes=1_000_000, size=32 << 20)
        assert roof.block_bytes == 999_936  # whole lines
        assert 1e8 < roof.blocks < 1e13
        assert 1e8 < roof.streaming < 1e13
        assert set(roof.operations) == set(probe.KINDS)
        assert all(1e8 < speed < 1e15 for speed in roof.operations.values())
    assert probe.kernels.threads() == before


def test_all_bytes_of_all_blocks_are_read() -> None:
    buffer = probe.empty_bytes(8 * 4096)
    buffer.zero_()
    words = buffer.view(8, 4096)
    words[:, ::8] = 1  # the low byte of each 64-bit word
    words[5, -8] = 3
    address = buffer.data_ptr()
    assert probe.kernels.read_blocks(address, 4096, list(range(8))) == 8 * 512 + 2
    assert probe.kernels.read_blocks(address, 4096, [5, 5]) == 2 * 514
    assert probe.kernels.read_blocks(address, 4096, []) == 0


def test_multiply_adds_are_counted_by_turns_and_threads() -> None:
    for kind in range(3):
        once = probe.kernels.multiply_adds(kind, 1)
        assert probe.kernels.multiply_adds(kind, 10) == 10 * once > 0
