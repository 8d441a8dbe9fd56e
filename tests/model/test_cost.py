"""Bytes and multiply-adds by hand, for a model small enough to count."""

import pytest
import torch

from coderv2.model.cost import Cost, Work
from coderv2.model.pack import pack_model
from tests.tiny import tiny_config, tiny_model

CONFIG = tiny_config()
D, H, C, R, N, V, F, E, K, W = 64, 4, 32, 8, 16, 16, 24, 16, 6, 600
ATTENTION = D * H * (N + R) + D * (C + R) + C * H * (N + V) + H * V * D
SHARED, EXPERT, DENSE = 3 * D * 2 * F, 3 * D * F, 3 * D * 112
NORMS = 3 * (2 * D + C) + D
ALWAYS = 3 * ATTENTION + DENSE + 2 * (SHARED + D * E) + NORMS


def test_a_step_of_one_sequence() -> None:
    work = Cost(tiny_model(CONFIG)).step(1, 100)
    read = 4 * (ALWAYS + W * D + 2 * K * EXPERT + D)
    assert work.bytes == pytest.approx(read + 100 * 3 * (C + R) * 4)
    keys = 3 * 101 * H * (2 * C + R)
    assert work.multiply_adds["fp32"] == pytest.approx(ALWAYS + W * D + 2 * K * EXPERT + keys)
    assert work.multiply_adds["int8"] == work.multiply_adds["bf16"] == 0


def test_many_tokens_touch_all_experts_and_one_row_passes_the_head() -> None:
    work = Cost(tiny_model(CONFIG)).prompt(200)
    assert work.bytes == pytest.approx(4 * (ALWAYS + W * D + 2 * E * EXPERT + 200 * D), rel=1e-4)
    pairs = 3 * 200 * 201 / 2 * H * (N + R + V)
    assert work.multiply_adds["fp32"] == pytest.approx(200 * (ALWAYS + 2 * K * EXPERT) + W * D + pairs)


def test_packed_weights_count_as_they_are_stored_and_multiplied() -> None:
    model = pack_model(tiny_model(CONFIG), lambda name: "int8")
    cost = Cost(model)
    assert cost.expert_bytes == (2 * 2 * 16 * (64 + 4) + 4 * 16 * (32 + 2))
    work = cost.step(4, 0).multiply_adds
    assert work["int8"] == pytest.approx(4 * (ALWAYS - NORMS + W * D + 2 * K * EXPERT))
    assert work["bf16"] == 4 * 3 * H * (2 * C + R)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_cache_in_fp8_is_read_as_bytes_and_multiplied_in_bfloat16(dtype: torch.dtype) -> None:
    narrow, wide = (Cost(tiny_model(CONFIG), kind).step(1, 100) for kind in (dtype, torch.bfloat16))
    assert wide.bytes - narrow.bytes == pytest.approx(100 * 3 * (C + R))
    assert narrow.multiply_adds == wide.multiply_adds


def test_seconds_are_those_of_reading_and_of_all_arithmetic() -> None:
    work = Work(10, {"fp32": 4, "int8": 8})
    assert work.seconds(5, {"fp32": 4, "int8": 2}) == {"memory": 2, "arithmetic": 10}
