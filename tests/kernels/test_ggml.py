"""GGUF's number types against the `gguf` package, an independent implementation."""

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from coderv2.kernels import cpu, ggml
from coderv2.kernels.formats import FORMATS

pytestmark = pytest.mark.skipif(cpu.kernels is None, reason="blocks are unpacked by the CPU kernels")

QUANTS = [number for number, kind in ggml.TYPES.items() if kind.floats]
ROWS, COLUMNS = 35, 512  # two blocks of rows and a part of one


def _theirs(number: int, blocks_Nx: np.ndarray) -> torch.Tensor:
    rows = blocks_Nx.reshape(ROWS, -1)
    return torch.from_numpy(gguf.quants.dequantize(rows, Type(number)).reshape(ROWS, COLUMNS))


def _ours(number: int, blocks_Nx: np.ndarray) -> torch.Tensor:
    return ggml.unpack(number, torch.from_numpy(blocks_Nx).flatten(), (ROWS, COLUMNS))


def _random(number: int, seed: int) -> np.ndarray:
    """Any bytes, save that scales are finite."""
    kind = ggml.TYPES[number]
    blocks_Nx = np.random.default_rng(seed).integers(
        0, 256, (ROWS * COLUMNS // kind.columns, kind.bytes), np.uint8
    )
    for at in kind.floats:
        blocks_Nx[:, at + 1] &= 0xBF  # exponents up to 15 of 31
    return blocks_Nx


def test_the_types_of_the_readme_are_all_there() -> None:
    for number, kind in ggml.TYPES.items():
        columns, size = gguf.GGML_QUANT_SIZES[Type(number)]
        assert (Type(number).name, columns, size) == (kind.name, kind.columns, kind.bytes)
    assert len(ggml.TYPES) == 15


@pytest.mark.parametrize("number", QUANTS, ids=lambda n: ggml.TYPES[n].name)
@pytest.mark.parametrize("seed", range(3))
def test_random_blocks_unpack_to_the_same_bits(number: int, seed: int) -> None:
    blocks_Nx = _random(number, seed)
    assert torch.equal(_ours(number, blocks_Nx), _theirs(number, blocks_Nx))


@pytest.mark.parametrize("number", QUANTS, ids=lambda n: ggml.TYPES[n].name)
@pytest.mark.parametrize("scale", [0.0, -0.0, 6e-8, -6e-8, 6.1e-5, 1.0, -1.0, 65504.0, -65504.0])
@pytest.mark.parametrize("byte", [0x00, 0xFF, 0x80, 0x7F, 0x0F, 0xF0])
def test_blocks_at_the_edges_unpack_to_the_same_bits(number: int, scale: float, byte: int) -> None:
    kind = ggml.TYPES[number]
    blocks_Nx = np.full((ROWS * COLUMNS // kind.columns, kind.bytes), byte, np.uint8)
    for at in kind.floats:
        blocks_Nx[:, at : at + 2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
    assert torch.equal(_ours(number, blocks_Nx), _theirs(number, blocks_Nx))


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_plain_numbers_are_the_same_bits_also_unaligned(name: str) -> None:
    number = Type[name].value
    x = np.random.default_rng(0).standard_normal((ROWS, COLUMNS), np.float32)
    raw = gguf.quants.quantize(x, Type[name]).view(np.uint8).flatten()
    shifted = torch.from_numpy(np.concatenate((np.zeros(1, np.uint8), raw)))[1:]
    assert torch.equal(ggml.unpack(number, shifted, (ROWS, COLUMNS)), _theirs(number, raw))


@pytest.mark.parametrize("number", ggml.TYPES, ids=lambda n: ggml.TYPES[n].name)
def test_nan_and_infinity_are_seen_wherever_a_float_stands(number: int) -> None:
    kind = ggml.TYPES[number]
    good = torch.zeros(4 * kind.bytes, dtype=torch.uint8)
    assert ggml.is_finite(number, good)
    exponents = {"F32": (2, 3), "F16": (1,), "BF16": (0, 1)}.get(kind.name)
    for at in [None] if exponents else kind.floats:
        bad = good.clone()
        if exponents:
            bad[[2 * kind.bytes + i for i in exponents]] = torch.tensor(
                [0x80, 0x7F][-len(exponents) :], dtype=torch.uint8
            )
            bad[2 * kind.bytes + exponents[-1]] = 0x7C if kind.name == "F16" else 0x7F
        else:
            bad[2 * kind.bytes + at + 1] = 0xFC
        assert not ggml.is_finite(number, bad)


def test_what_grows_is_what_has_no_kernel_of_its_own() -> None:
    growing = {kind.name for kind in ggml.TYPES.values() if kind.grows}
    assert growing == {"F16", "Q2_K", "Q3_K", "IQ4_NL", "IQ4_XS"}


@pytest.mark.parametrize("number", ggml.TYPES, ids=lambda n: ggml.TYPES[n].name)
def test_stacks_of_matrices_pack_one_by_one(number: int) -> None:
    kind = ggml.TYPES[number]
    if kind.floats:
        raw = torch.from_numpy(_random(number, 5)).flatten()
    else:
        raw = torch.zeros(ROWS * COLUMNS * kind.bytes, dtype=torch.uint8).random_(0, 60)
    whole = ggml.pack(number, raw, (5, 7, COLUMNS))
    assert whole.format is FORMATS[kind.format]
    assert torch.equal(
        ggml.unpack(number, raw, (5, 7, COLUMNS)).flatten(0, 1), ggml.unpack(number, raw, (ROWS, COLUMNS))
    )
