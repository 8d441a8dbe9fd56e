"""Random weights in every number format, activations that are hard on a kernel, and the errors that are allowed."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from coderv2.kernels.formats import FORMATS, GROUP, SUPER, Format, Weight
from coderv2.kernels.layout import Parts, assemble
from coderv2.kernels.packing import pack

# Against `reference` on the unpacked weights: norm of the difference over norm of the result, for Gaussian rows. Narrow
# weights set the bound: at 1,408 columns and more the error is half of it. f32 and fp8 multiply in float32; bf16 rounds
# activations to bfloat16; the others round them to int8, with one scale for 32 columns where the weights' scales have
# one level, for 256 where they have two.
#                 one product, feed-forward
BOUNDS = {
    "f32":         (3e-6, 2e-6),
    "bf16":        (5e-3, 5e-3),
    "fp8":         (1e-6, 2e-6),
    "q4_flat":     (1.1e-2, 2e-2),
    "q4_flat_min": (1.1e-2, 2e-2),
    "q5_flat":     (1.1e-2, 2e-2),
    "q5_flat_min": (1.1e-2, 2e-2),
    "int8":        (1.1e-2, 2e-2),
    "int4":        (1.4e-2, 2.5e-2),
    "q5_two":      (1.4e-2, 2.5e-2),
    "q6_two":      (1.4e-2, 2.5e-2),
    "q4_two":      (1.4e-2, 2.5e-2),
    "q4_two_min":  (1.4e-2, 2.5e-2),
    "q8_two":      (1.4e-2, 2.5e-2),
}  # fmt: skip


def random(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_weight(name: str, *shape: int, seed: int = 0) -> Weight:
    """Numbers of about `1/√I` in any format: also in those that nothing is rounded to."""
    generator, format = torch.Generator().manual_seed(seed), FORMATS[name]
    if format.scales in ("none", "fp8"):
        return pack(torch.randn(*shape, generator=generator) / shape[-1] ** 0.5, name)
    O, I = shape[-2:]
    matrices = [
        assemble(format, _random_parts(format, O, I, generator)) for _ in range(math.prod(shape[:-2]))
    ]
    return Weight(format, shape, torch.stack(matrices) if len(shape) > 2 else matrices[0])


def _random_parts(format: Format, O: int, I: int, generator: torch.Generator) -> Parts:
    G, S = -(-I // GROUP), -(-I // SUPER)
    size = I**-0.5 / 2 ** (format.bits - 1)  # of a step, so that quants reach about ±1/√I

    def bytes_(columns: int, top: int) -> Tensor:
        return torch.randint(1, top, (O, columns), generator=generator)

    def halves(columns: int, scale: float) -> Tensor:
        return ((torch.rand(O, columns, generator=generator) + 0.5) * scale).half()

    quants_OI = torch.randint(0, 2**format.bits, (O, I), generator=generator).to(torch.uint8)
    middle = 2 ** (format.bits - 1)
    match format.scales:
        case "flat":
            return Parts(quants_OI, halves(G, size))
        case "flat_min":
            return Parts(quants_OI, halves(G, size), halves(G, size * middle))
        case "two":
            scales, minima = (bytes_(G, 64).to(torch.uint8) for _ in range(2))
            return Parts(quants_OI, scales, minima, halves(S, size / 32), halves(S, size * middle / 32))
        case "two_16":
            return Parts(quants_OI, (bytes_(2 * G, 64) - 32).to(torch.int8), None, halves(S, size / 16))
        case _:
            scales, minima = (bytes_(2 * G, 16).to(torch.uint8) for _ in range(2))
            return Parts(quants_OI, scales, minima, halves(S, size / 8), halves(S, size * middle / 8))


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference over norm, in double precision; zeros that should be zeros have none."""
    difference = (actual.double() - expected.double()).norm()
    return float(difference / expected.double().norm().clamp(min=1e-300))


def _outliers(x_TD: Tensor) -> Tensor:
    x_TD[:, :: max(1, x_TD.shape[1] // 3)] *= 1e4
    return x_TD


HARD: dict[str, Callable[[Tensor], Tensor]] = {
    "gaussian": lambda x_TD: x_TD,
    "outliers of 1e4": _outliers,
    "all of 1e4": lambda x_TD: x_TD * 1e4,
    "sparse": lambda x_TD: x_TD * (x_TD.abs() > 2),
    "constant": lambda x_TD: torch.full_like(x_TD, -3.0),
    "a row of zeros": lambda x_TD: x_TD * (torch.arange(len(x_TD)) != len(x_TD) // 2)[:, None],
    "tiny": lambda x_TD: x_TD * 1e-9,
}
"""Kinds of rows, each made of Gaussian ones."""
