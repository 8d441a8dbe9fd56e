"""The latent cache's memory."""

import time
from pathlib import Path

import pytest
import torch

from coderv2.kernels.latents import KINDS, stored, widened
from coderv2.model.cache import LatentCache, bytes_per_token
from tests.tiny import tiny_config


def test_slots_of_a_table_are_its_pages_slots_in_order() -> None:
    cache = LatentCache(tiny_config(), 9, 4)
    assert cache.slots(torch.tensor([7, 2])).tolist() == [28, 29, 30, 31, 8, 9, 10, 11]


def test_cache_starts_as_zeros_of_the_asked_type() -> None:
    cache = LatentCache(tiny_config(), 3, 4, torch.float32)
    assert cache.latent_LPSC.shape == (3, 3, 4, 32)
    assert cache.k_rope_LPSR.dtype == torch.float32
    assert not cache.latent_LPSC.any()


def test_an_int8_cache_takes_half_of_bfloat16_and_its_rows_scales() -> None:
    config = tiny_config()
    numbers = config.kv_lora_rank + config.qk_rope_head_dim
    assert bytes_per_token(config, torch.int8) == config.num_hidden_layers * (numbers + 16)
    cache = LatentCache(config, 2, 4, torch.int8)
    assert cache.latent_LPSC.nbytes + cache.k_rope_LPSR.nbytes == 8 * bytes_per_token(config, torch.int8)


@pytest.mark.parametrize("dtype", KINDS)
def test_a_move_copies_latents_and_turns_keys(dtype: torch.dtype) -> None:
    config = tiny_config()
    cache = LatentCache(config, 4, 4, dtype)
    for part, width in ((cache.latent_LPSC, 32), (cache.k_rope_LPSR, 8)):
        part[:] = stored(torch.randn(*part.shape[:3], width), dtype)
    old = cache.k_rope_LPSR.clone()
    cache.move([0, 1], range(1, 7), [2, 3], range(2, 8))
    assert torch.equal(cache.latent_LPSC.flatten(1, 2)[:, 10:16], cache.latent_LPSC.flatten(1, 2)[:, 1:7])
    turned = cache.k_rope_LPSR.clone()
    cache.move([2, 3], range(2, 8), [0, 1], range(1, 7))
    back, before = (
        widened(part.flatten(1, 2)[:, 1:7], 8, torch.float32) for part in (cache.k_rope_LPSR, old)
    )
    assert (back - before).norm() < 0.03 * before.norm()
    assert not torch.equal(turned.flatten(1, 2)[:, 10:16], old.flatten(1, 2)[:, 1:7])


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory from /proc")
def test_unused_pages_cost_neither_memory_nor_time() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before, begin = resident(), time.perf_counter()
    cache = LatentCache(tiny_config(), 500_000, 16)
    assert cache.latent_LPSC.nbytes > 1 << 30
    assert time.perf_counter() - begin < 0.5
    assert resident() - before < 64 << 20
