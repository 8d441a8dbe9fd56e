from pathlib import Path

import pytest
import torch

from coderv2.engine import fit
from coderv2.engine.fit import Size
from coderv2.engine.machine import Machine, Speed
from coderv2.model.cache import bytes_per_token
from coderv2.model.config import ModelConfig
from tests.published import FULL, LITE
from tests.tiny import tiny_config, tiny_model

SPEEDS = {torch.float32: Speed(40e9, 1e12), torch.bfloat16: Speed(30e9, 2e12)}


def machine(free: int, **more: object) -> Machine:
    facts = {"processor": "x", "cores": 2, "threads": 2, "instruction_sets": (), "memory": free, "free": free}
    facts |= {"device": "cpu", "gpu": None, "gpu_memory": 0, "gpu_free": 0, "speeds": SPEEDS}
    return Machine(**facts | more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("raw", "released"), [(LITE, fit.RELEASED[0]), (FULL, fit.RELEASED[1])])
def test_the_released_sizes_are_those_of_the_published_configs(
    raw: dict[str, object], released: Size
) -> None:
    assert Size.of(released.name, ModelConfig.from_dict(raw)) == released


def test_a_size_counts_every_weight_and_what_a_token_costs_in_the_cache() -> None:
    config = tiny_config("full")
    size = Size.of("tiny", config)
    assert size.parameters == sum(p.numel() for p in tiny_model(config).parameters())
    assert size.active < size.parameters - config.vocab_size * config.hidden_size
    assert size.cache_values * 2 == bytes_per_token(config, torch.bfloat16)


def test_an_answers_speed_is_bandwidth_over_the_bytes_of_a_token() -> None:
    lite = fit.RELEASED[0]
    found = fit.fit(lite, machine(64 << 30), torch.bfloat16)
    assert found.fits
    assert found.answer_speed == pytest.approx(30e9 / (2 * lite.active))
    assert found.prompt_speed == pytest.approx(2e12 / (2 * lite.active))
    left = (64 << 30) - 2 * lite.parameters
    assert found.cache_tokens == left // 4 // found.cache_bytes_per_token
    assert found.settings.max_model_len == lite.context
    assert found.settings.cache_tokens == found.cache_tokens


def test_a_cache_is_never_larger_than_its_requests_can_use() -> None:
    size = Size.of("tiny", tiny_config(max_position_embeddings=4096))
    assert fit.fit(size, machine(1 << 40), torch.float32).cache_tokens == 4096 * 64


def test_the_best_fit_is_the_fastest_that_fits_else_the_smallest() -> None:
    lite = fit.RELEASED[0]
    assert fit.best_fit(lite, machine(1 << 40)).dtype == torch.bfloat16
    fast = {**SPEEDS, torch.float32: Speed(400e9, 1e12)}
    assert fit.best_fit(lite, machine(1 << 40, speeds=fast)).dtype == torch.float32
    assert fit.best_fit(lite, machine(40 << 30, speeds=fast)).dtype == torch.bfloat16
    too_small = fit.best_fit(lite, machine(8 << 30))
    assert not too_small.fits
    assert too_small.dtype == torch.bfloat16


def test_on_a_gpu_its_own_memory_counts() -> None:
    found = machine(1 << 30, device="cuda", gpu="x", gpu_memory=80 << 30, gpu_free=80 << 30)
    assert fit.best_fit(fit.RELEASED[0], found).fits


def test_a_rehearsal_counts_tokens_per_second(tiny_checkpoint: Path) -> None:
    speeds = fit.rehearse(tiny_checkpoint, torch.float32, "cpu", tokens=4)
    assert 1 < speeds.answer_speed < 1e6
    assert speeds.prompt_speed > 10
