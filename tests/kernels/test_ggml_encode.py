"""Rounding to GGUF's types: read back by the `gguf` package, no worse than the obvious rounding."""

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from hypothesis import given, settings
from hypothesis import strategies as st

from coderv2.errors import Unsupported
from coderv2.kernels import ggml
from coderv2.kernels.cpu import kernels
from coderv2.kernels.ggml_encode import encode, encode_plainly

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


ODD_BLOCKS = {
    "zeros": torch.zeros(2, 256),
    "equal": torch.full((2, 256), 0.3),
    "negative": torch.full((2, 256), -0.3),
    "tiny": torch.full((2, 256), 1e-9),
    "above 0": torch.linspace(0, 1, 512).view(2, 256),
    "below 0": torch.linspace(-1, 0, 512).view(2, 256),
    "outlier": torch.cat((torch.full((2, 255), 1e-4), torch.full((2, 1), 100.0)), 1),
    "half zeros": torch.cat((torch.zeros(2, 128), torch.randn(2, 128)), 1),
}
on_odd_blocks = pytest.mark.parametrize("x", ODD_BLOCKS.values(), ids=list(ODD_BLOCKS))


@pytest.mark.parametrize("name", QUANTS)
@on_odd_blocks
def test_odd_blocks_stay_near_and_finite(name: str, x: torch.Tensor) -> None:
    y = _decoded(name, x)
    number = Type[name].value
    assert ggml.is_finite(number, encode(name, x).flatten())
    steps = {"Q8_0": 127, "Q5_0": 15, "Q5_1": 31, "Q4_K": 15, "Q5_K": 31, "Q6_K": 31}[name]
    assert (y - x).abs().max() <= 1.3 * x.abs().max() / steps + 1e-7


@pytest.mark.skipif(kernels is None, reason="without the CPU kernels there is nothing to compare")
@pytest.mark.parametrize("name", QUANTS)
class TestKernels:
    """They are the definition, bit for bit."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("rows", [1, 3, 130])
    def test_on_normal_weights(self, name: str, rows: int, dtype: torch.dtype) -> None:
        x = (torch.randn(rows, 512, generator=torch.Generator().manual_seed(rows)) * 0.02).to(dtype)
        assert torch.equal(encode(name, x), encode_plainly(name, x))

    @on_odd_blocks
    def test_on_odd_blocks(self, name: str, x: torch.Tensor) -> None:
        assert torch.equal(encode(name, x), encode_plainly(name, x))

    @given(
        seed=st.integers(0, 1 << 32), scale=st.sampled_from([1e-20, 1e-6, 1.0, 1e4]), power=st.integers(1, 9)
    )
    @settings(max_examples=50)
    def test_on_weights_of_any_spread(self, name: str, seed: int, scale: float, power: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(2, 256, generator=generator).pow(power)
        x = (x / x.abs().max() + torch.randn(2, 1, generator=generator)) * scale
        assert torch.equal(encode(name, x), encode_plainly(name, x))


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_plain_types_are_the_packages_bits(name: str) -> None:
    x = _weights(1)
    assert encode(name, x).numpy().tobytes() == gguf.quants.quantize(x.numpy(), Type[name]).tobytes()


def test_weights_beyond_float16_are_refused_and_not_made_infinite() -> None:
    for name, size in {"F16": 1e6, "Q8_0": 1e7, "Q4_K": 1e8, "Q6_K": 1e9}.items():
        with pytest.raises(Unsupported, match="too large"):
            encode(name, torch.full((1, 256), size))


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", *QUANTS])
@pytest.mark.parametrize("at", [0, 5, 255])
def test_nan_is_refused_and_not_made_a_number(name: str, at: int) -> None:
    x = _weights()
    x[3, at] = torch.nan
    for given_x in (x, x.bfloat16()):
        with pytest.raises(Unsupported, match="NaN"):
            encode(name, given_x)


def test_types_that_nothing_is_rounded_to_are_named() -> None:
    with pytest.raises(Unsupported, match="IQ4_XS"):
        encode("IQ4_XS", _weights())
