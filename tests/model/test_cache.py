"""The latent cache's memory."""

import time
from pathlib import Path

import pytest
import torch

from coderv2.model.cache import LatentCache
from tests.tiny import tiny_config


def test_slots_of_a_table_are_its_pages_slots_in_order() -> None:
    cache = LatentCache(tiny_config(), 9, 4)
    assert cache.slots(torch.tensor([7, 2])).tolist() == [28, 29, 30, 31, 8, 9, 10, 11]


def test_cache_starts_as_zeros_of_the_asked_type() -> None:
    cache = LatentCache(tiny_config(), 3, 4, torch.float32)
    assert cache.latent_LPSC.shape == (3, 3, 4, 32)
    assert cache.k_rope_LPSR.dtype == torch.float32
    assert not cache.latent_LPSC.any()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory from /proc")
def test_unused_pages_cost_neither_memory_nor_time() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before, begin = resident(), time.perf_counter()
    cache = LatentCache(tiny_config(), 500_000, 16)
    assert cache.latent_LPSC.nbytes > 1 << 30
    assert time.perf_counter() - begin < 0.5
    assert resident() - before < 64 << 20
