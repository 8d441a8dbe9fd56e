"""The speed to expect of experts in two places, from what both sides and the way between them give.

A layer takes as long as the slower of its two sides. The device reads its part of the weights; the CPU reads the chosen
experts that lie in RAM, and what crosses the link, the activations, pays the link's bytes and its delay twice. A prompt
is bound by arithmetic instead, on either side. Nothing else is counted, so the figures are bounds from above.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from coderv2.engine import machine
from coderv2.model import usage
from coderv2.model.config import ModelConfig
from coderv2.model.placement import Plan
from coderv2.model.usage import Usage, layers_of_experts

PCIE_4 = 25e9
"""Bytes per second that 16 lanes carry one way, taken where there is no GPU to measure."""


@dataclass(frozen=True)
class Sides:
    """What both sides and the way between them give: bytes and operations (two for a multiply-add) per second."""

    device_bytes: float
    device_operations: float
    ram_bytes: float
    cpu_operations: float
    link_bytes: float
    """One way."""
    link_seconds: float = 15e-6
    """What a crossing takes however little crosses. An estimate, not yet measured on a GPU."""


@dataclass(frozen=True)
class Expected:
    """Tokens per second at best."""

    answer: float
    prompt: float
    near: float
    """Share of the choices of experts that the device serves."""


def expect(
    config: ModelConfig, made: Plan, sides: Sides, counts: Usage | None = None, *, tokens: int = 2048
) -> Expected:
    """One answer with nothing in its cache, and prompts in passes of `tokens` tokens."""
    shares = _shares(config, made, counts)
    answer = _answer_seconds(config, made, sides, shares)
    prompt = _prompt_seconds(config, made, sides, shares, tokens)
    return Expected(1 / answer, tokens / prompt, sum(shares) / len(shares) if shares else 1.0)


def _shares(config: ModelConfig, made: Plan, counts: Usage | None) -> list[float]:
    counts, near = counts or usage.uniform(config), made.placement.near
    return [counts.share(layer, near[layer]) for layer in layers_of_experts(config)]


def _answer_seconds(config: ModelConfig, made: Plan, sides: Sides, shares: list[float]) -> float:
    sizes, K = made.sizes, config.num_experts_per_tok
    read = sizes.fixed - sizes.embedding - len(shares) * sizes.shared
    seconds = read / sides.device_bytes
    crossing = 2 * (sides.link_seconds + config.hidden_size * 2 / sides.link_bytes)
    for share in shares:
        device = (sizes.shared + K * share * sizes.near) / sides.device_bytes
        cpu = crossing + K * (1 - share) * sizes.far / sides.ram_bytes if share < 1 else 0
        seconds += max(device, cpu)
    return seconds


def _prompt_seconds(config: ModelConfig, made: Plan, sides: Sides, shares: list[float], T: int) -> float:
    sizes, K = made.sizes, config.num_experts_per_tok
    seconds = 2 * T * sizes.multiplied / sides.device_operations
    crossing = 2 * (sides.link_seconds + T * config.hidden_size * 2 / sides.link_bytes)
    for layer, share in zip(layers_of_experts(config), shares, strict=True):
        far = made.placement.far(layer)
        device = 2 * T * K * share * sizes.numbers / sides.device_operations
        arithmetic = 2 * T * K * (1 - share) * sizes.numbers / sides.cpu_operations
        cpu = crossing + max(arithmetic, len(far) * sizes.far / sides.ram_bytes) if far else 0
        seconds += max(device, cpu)
    return seconds


def sides(known: Mapping[str, float]) -> Sides:
    """`known` fields of `Sides`, the others measured here, in seconds; the device's need a GPU."""
    found = dict(known)
    for names, device in (
        (("device_bytes", "device_operations"), "cuda"),
        (("ram_bytes", "cpu_operations"), "cpu"),
    ):
        if not set(names) <= found.keys():
            speed = machine.speeds(torch.device(device))[torch.bfloat16]
            found = dict(zip(names, (speed.bytes_per_second, speed.flops), strict=True)) | found
    if "link_bytes" not in found:
        found["link_bytes"] = machine.link_speed() if torch.cuda.is_available() else PCIE_4
    return Sides(**found)
