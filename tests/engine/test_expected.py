"""The speed to expect: sums that can be done by hand, and what must hold for any."""

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from coderv2.engine.expected import Sides, expect, sides
from coderv2.kernels import cpu
from coderv2.model.config import ModelConfig
from coderv2.model.placement import Plan, Sizes, chosen
from coderv2.model.usage import uniform
from tests.published import FULL, LITE

CONFIG = ModelConfig.from_dict(LITE)
SIZES = Sizes.of(CONFIG, torch.bfloat16, None)
CARD = Sides(4.3e12, 790e12, 100e9, 3e12, 50e9, 10e-6)


def _plan(count: int, sizes: Sizes = SIZES, config: ModelConfig = CONFIG) -> Plan:
    return Plan(1 << 50, sizes, 4096, 0, 0, chosen(config, count))


def test_with_everything_on_the_device_it_is_bytes_over_bandwidth() -> None:
    """877 tokens/s in bfloat16 at 4.3 TB/s: 2.451 billion weights are read (docs of both models)."""
    found = expect(CONFIG, _plan(64 * 26), CARD)
    assert found.answer == pytest.approx(4.3e12 / (2 * 2_451_435_008), rel=0.002)
    assert found.near == 1


def test_with_all_experts_in_ram_their_bytes_and_the_crossings_rule() -> None:
    config = ModelConfig.from_dict(FULL)
    sizes = Sizes.of(config, torch.bfloat16, "int4")
    found = expect(config, _plan(0, sizes, config), CARD)
    far = 6 * 59 * 3 * 1536 * 5120 * 4.625 / 8  # the routed numbers of a token, 8.35 billion, at 4.625 bits
    crossing = 59 * 2 * (10e-6 + 5120 * 2 / 50e9)
    device = (sizes.fixed - sizes.embedding - 59 * sizes.shared) / 4.3e12
    assert 1 / found.answer == pytest.approx(far / 100e9 + crossing + device, rel=0.001)
    assert found.near == 0


# RAM of more than 134 GB/s would hide one expert's reading behind the device's: faster than to leave RAM alone.
@given(st.integers(0, 64 * 26), st.integers(0, 64 * 26), st.floats(10e9, 130e9))
@example(1663, 1664, 130e9)
def test_more_experts_on_a_faster_device_are_never_slower(few: int, more: int, ram: float) -> None:
    few, more = sorted((few, more))
    some, others = (expect(CONFIG, _plan(count), replace(CARD, ram_bytes=ram)) for count in (few, more))
    assert others.answer >= some.answer * (1 - 1e-9)
    assert others.near >= some.near


def test_prompts_are_bound_by_the_slower_arithmetic() -> None:
    fast, slow = (
        expect(CONFIG, _plan(0), replace(CARD, cpu_operations=each)).prompt for each in (3e12, 1.5e12)
    )
    assert fast == pytest.approx(2 * slow, rel=0.05)
    # 4.48 billion operations for each token, the vocabulary's 0.42 not among them.
    assert expect(CONFIG, _plan(64 * 26), CARD).prompt == pytest.approx(790e12 / 4.48e9, rel=0.01)


def test_counts_say_how_much_the_device_serves() -> None:
    counts = uniform(CONFIG)
    row = (10,) * 32 + (0,) * 32
    skewed = type(counts)(dict.fromkeys(counts.counts, row))
    made = Plan(1 << 50, SIZES, 4096, 0, 0, chosen(CONFIG, 32 * 26, skewed))
    assert expect(CONFIG, made, CARD, skewed).near == 1
    assert expect(CONFIG, made, CARD).near == 0.5


@pytest.mark.skipif(cpu.kernels is None, reason="the CPU kernels measure")
def test_what_is_not_given_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODERV2_THREADS", "1")
    found = sides({"device_bytes": 1e12, "device_operations": 1e14})
    assert found.device_bytes == 1e12
    assert 1e9 < found.ram_bytes < 1e12
    assert found.link_bytes > 0
