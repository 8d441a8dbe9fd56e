"""Rounding to GGUF's types: read back by the `gguf` package, no worse than the obvious rounding."""

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from coderv2.errors import Unsupported
from coderv2.kernels import ggml
from coderv2.kernels.ggml_encode import encode

QUANTS = ["Q8_0", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
# Norm of the error over norm of the weights, for normal ones; a step below each is more than the type can do.
EXPECTED = {"Q8_0": 0.0058, "Q5_0": 0.046, "Q5_1": 0.042, "Q4_K": 0.081, "Q5_K": 0.040, "Q6_K": 0.0195}


def _decoded(name: str, x: torch.Tensor) -> torch.Tensor:
    raw = encode(name, x).numpy()
    return torch.from_numpy(gguf.quants.dequantize(raw, Type[name])).view(x.shape)


def _weights(seed: int = 0) -> torch.Tensor:
    return torch.randn(64, 512, generator=torch.Generator().manual_seed(seed)) * 0.02


@pytest.mark.parametrize("name", QUANTS)
def test_error_is_what_the_type_can_do(name: str) -> None:
    x = _weights()
    error = ((_decoded(name, x) - x).norm() / x.norm()).item()
    assert 0.8 * EXPECTED[name] < error <= EXPECTED[name]


@pytest.mark.parametrize("name", ["Q5_0", "Q5_1", "Q8_0"])
def test_large_weights_come_out_no_worse_than_by_the_packages_own_rounding(name: str) -> None:
    x = _weights()
    theirs = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(x.numpy(), Type[name]), Type[name]))

    def error(y: torch.Tensor) -> float:
        return (x.abs() * (y - x).square()).sum().item()

    assert error(_decoded(name, x)) <= 1.001 * error(theirs)


@pytest.mark.parametrize("name", QUANTS)
@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(2, 256),
        torch.full((2, 256), 0.3),
        torch.full((2, 256), -0.3),
        torch.full((2, 256), 1e-9),
        torch.linspace(0, 1, 512).view(2, 256),
        torch.linspace(-1, 0, 512).view(2, 256),
        torch.cat((torch.full((2, 255), 1e-4), torch.full((2, 1), 100.0)), 1),
        torch.cat((torch.zeros(2, 128), torch.randn(2, 128)), 1),
    ],
    ids=["zeros", "equal", "negative", "tiny", "above 0", "below 0", "outlier", "half zeros"],
)
def test_odd_blocks_stay_near_and_finite(name: str, x: torch.Tensor) -> None:
    y = _decoded(name, x)
    number = Type[name].value
    assert ggml.is_finite(number, encode(name, x).flatten())
    steps = {"Q8_0": 127, "Q5_0": 15, "Q5_1": 31, "Q4_K": 15, "Q5_K": 31, "Q6_K": 31}[name]
    assert (y - x).abs().max() <= 1.3 * x.abs().max() / steps + 1e-7


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_plain_types_are_the_packages_bits(name: str) -> None:
    x = _weights(1)
    assert encode(name, x).numpy().tobytes() == gguf.quants.quantize(x.numpy(), Type[name]).tobytes()


def test_weights_beyond_float16_are_refused_and_not_made_infinite() -> None:
    with pytest.raises(Unsupported, match="too large"):
        encode("F16", torch.full((1, 32), 1e6))


def test_types_that_nothing_is_rounded_to_are_named() -> None:
    with pytest.raises(Unsupported, match="IQ4_XS"):
        encode("IQ4_XS", _weights())
