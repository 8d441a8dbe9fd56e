"""Kernel order: what comes back is what went in, within each format's bound; C++ and PyTorch agree bit for bit."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from coderv2.errors import InvalidValue
from coderv2.kernels import ggml, native, packing
from coderv2.kernels.cpu import kernels
from coderv2.kernels.formats import FORMATS, GROUP, SUPER, Format, Weight
from coderv2.kernels.layout import Parts, assemble, disassemble
from coderv2.kernels.packing import pack, pack_fp8, pack_plainly, unpack, unpack_plainly

ROUNDED = ("f32", "bf16", "fp8", "int8", "int4")
needs_kernels = pytest.mark.skipif(kernels is None, reason="the CPU kernels are not built")


def _wide(x_OI: Tensor, group: int) -> Tensor:
    return torch.nn.functional.pad(x_OI.float(), (0, -x_OI.shape[1] % group)).unflatten(1, (-1, group))


def bound(x_OI: Tensor, name: str) -> Tensor:
    """The largest error that each number may have, [O, I]."""
    if name == "f32":
        return torch.zeros_like(x_OI)
    if name == "bf16":  # eight bits of mantissa
        return x_OI.abs() * 2**-8 + 1e-40
    if name == "fp8":  # four bits of mantissa, or half the least step of the span's scale
        most = (
            _wide(x_OI, 128).abs().amax(-1, keepdim=True).expand(-1, -1, 128).flatten(1)[:, : x_OI.shape[1]]
        )
        return torch.maximum(x_OI.abs() * 2**-4, most / 448 * 2**-10) * 1.001 + 1e-27
    tiny = 2.0**-24  # float16's least step
    if name == "int8":  # half a step, and 127 times what float16 rounds off the scale
        most = _wide(x_OI, GROUP).abs().amax(-1, keepdim=True)
        each = most / 127 * 0.5 + 127 * torch.maximum(most / 127 * 2**-11, torch.tensor(tiny / 2))
        return (each * 1.001).expand(-1, -1, GROUP).flatten(1)[:, : x_OI.shape[1]]
    return _int4_bound(x_OI, tiny)


def _int4_bound(x_OI: Tensor, tiny: float) -> Tensor:
    """Half a step; 15 times half a step of the scale's byte; half a step of the minimum's byte.

    Where a scale's byte is rounded down, what is cut off at the range's end is within the same."""
    groups = _wide(x_OI, GROUP)
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)

    def unit(x_OG: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(x_OG, (0, -x_OG.shape[1] % 8)).unflatten(1, (-1, 8))
        most = padded.amax(-1, keepdim=True) / 255 * (1 + 2**-10) + tiny
        return most.expand(-1, -1, 8).flatten(1)[:, : x_OG.shape[1]]

    scale = (high - low) / 15
    step = scale + unit(scale) / 2
    each = step / 2 + 15 * unit(scale) / 2 + unit(-low) / 2
    return (each * 1.001)[..., None].expand(-1, -1, GROUP).flatten(1)[:, : x_OI.shape[1]]


@st.composite
def matrices(draw: st.DrawFn) -> Tensor:
    """Random rows with what is hard to pack among them."""
    O, I = draw(st.integers(1, 35)), draw(st.sampled_from([1, 31, 32, 33, 96, 128, 160, 255, 257, 700]))
    seed, size = draw(st.integers(0, 1 << 30)), draw(st.sampled_from([1e-30, 1e-7, 0.006, 0.02, 1.0, 100.0]))
    x_OI = torch.randn(O, I, generator=torch.Generator().manual_seed(seed)) * size
    for kind in draw(
        st.lists(
            st.sampled_from(["zeros", "outlier", "denormal", "constant", "positive"]), max_size=3, unique=True
        )
    ):
        row = draw(st.integers(0, O - 1))
        if kind == "zeros":
            x_OI[row] = 0
        elif kind == "outlier":
            x_OI[row, draw(st.integers(0, I - 1))] *= 1000
        elif kind == "denormal":
            x_OI[row] *= 1e-38 / size
        elif kind == "constant":
            x_OI[row] = size
        else:
            x_OI[row] = x_OI[row].abs() + size
    return x_OI


@pytest.mark.parametrize("name", ROUNDED)
@given(matrices())
@settings(max_examples=25, deadline=None)
def test_a_number_comes_back_within_its_format_s_bound(name: str, x_OI: Tensor) -> None:
    error = (unpack(pack(x_OI, name)) - x_OI).abs()
    worst = (error - bound(x_OI, name)).amax()
    assert worst <= 0, f"{name}: {float(worst)} over the bound"


@needs_kernels
@pytest.mark.parametrize("name", ROUNDED)
@given(matrices(), st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_kernels_round_bit_for_bit_as_pytorch(name: str, x_OI: Tensor, bf16: bool) -> None:
    given_OI = x_OI.bfloat16() if bf16 else x_OI
    assert torch.equal(pack(given_OI, name).data, pack_plainly(given_OI, name).data)


@pytest.mark.parametrize("columns", [1408, 10944])
@pytest.mark.parametrize("name", ROUNDED)
def test_the_released_models_odd_widths_and_stacks(name: str, columns: int) -> None:
    x_EOI = torch.randn(2, 19, columns, generator=torch.Generator().manual_seed(1)) * 0.02
    weight = pack(x_EOI, name)
    assert weight.data.shape == (2, FORMATS[name].bytes(19, columns))
    for back, x_OI in zip(unpack(weight), x_EOI, strict=True):
        assert bool(((back - x_OI).abs() <= bound(x_OI, name)).all())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_where_it_would_be_lost_and_kept_where_not(value: float) -> None:
    x_OI = torch.ones(3, 40)
    x_OI[1, 7] = value
    for name in ("fp8", "int8", "int4"):
        with pytest.raises(InvalidValue, match=name):
            pack(x_OI, name)
    for name in ("f32", "bf16"):
        torch.testing.assert_close(unpack(pack(x_OI, name)), x_OI, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_numbers_whose_scale_float16_cannot_hold_are_refused(name: str) -> None:
    unpack(pack(torch.full((1, 32), 8e6), name))
    with pytest.raises(InvalidValue, match="finite numbers up to"):
        pack(torch.full((1, 32), 1e7), name)


def test_a_format_that_nothing_is_rounded_to_is_named() -> None:
    with pytest.raises(InvalidValue, match="q6_two"):
        pack(torch.ones(1, 32), "q6_two")


def _random_parts(format: Format, O: int, I: int, seed: int) -> Parts:
    generator = torch.Generator().manual_seed(seed)
    G, S = -(-I // GROUP), -(-I // SUPER)
    halves = 2 if format.scales.startswith("two_16") else 1

    def some(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=generator)

    def half(*shape: int) -> Tensor:
        return (torch.rand(shape, generator=generator) * 0.1).half()

    quants_OI = some(1 << format.bits, O, I).to(torch.uint8)
    minima = format.scales in ("flat_min", "two", "two_16_min")
    if format.scales.startswith("flat"):
        return Parts(quants_OI, half(O, G), half(O, G) if minima else None)
    kind, high = (torch.int8, 128) if format.scales == "two_16" else (torch.uint8, 256)
    scales = (some(high, O, G * halves) - (64 if kind == torch.int8 else 0)).to(kind)
    codes = some(high, O, G * halves).to(torch.uint8) if minima else None
    return Parts(quants_OI, scales, codes, half(O, S), half(O, S) if minima else None)


QUANTISED = [f for f in FORMATS.values() if f.scales not in ("none", "fp8")]


@pytest.mark.parametrize("format", QUANTISED, ids=lambda f: f.name)
@given(st.integers(1, 33), st.sampled_from([32, 64, 256, 288, 544]), st.integers(0, 1 << 30))
@settings(max_examples=15, deadline=None)
def test_parts_come_back_as_they_were(format: Format, O: int, I: int, seed: int) -> None:
    parts = _random_parts(format, O, I, seed)
    data = assemble(format, parts)
    assert data.numel() == format.bytes(O, I)
    back = disassemble(data, format, O, I)
    for given_part, part in zip(vars(parts).values(), vars(back).values(), strict=True):
        assert (given_part is None) == (part is None)
        if given_part is not None:
            assert torch.equal(part[:O].clone(), given_part)


@needs_kernels
@pytest.mark.parametrize("format", FORMATS.values(), ids=lambda f: f.name)
@given(st.integers(1, 33), st.sampled_from([32, 64, 256, 288, 544]), st.integers(0, 1 << 30))
@settings(max_examples=15, deadline=None)
def test_the_kernels_unpack_bit_for_bit(format: Format, O: int, I: int, seed: int) -> None:
    if format in QUANTISED:
        matrices = [assemble(format, _random_parts(format, O, I, seed + e)) for e in range(3)]
        weight = Weight(format, (3, O, I), torch.stack(matrices))
    else:
        weight = pack(torch.randn(3, O, I, generator=torch.Generator().manual_seed(seed)), format.name)
    plain_EOI = unpack_plainly(weight)
    assert torch.equal(unpack(weight), plain_EOI)
    ids, one = (
        torch.randint(0, O, (7,), generator=torch.Generator().manual_seed(seed)),
        Weight(format, (O, I), weight.data[1]),
    )
    assert torch.equal(native.embedding(ids, one), plain_EOI[1, ids])
    assert torch.equal(packing.unpack_rows(one, ids), plain_EOI[1, ids])


@needs_kernels
@pytest.mark.parametrize("format", FORMATS.values(), ids=lambda f: f.name)
def test_both_languages_count_the_same_bytes(format: Format) -> None:
    for O, I in ((1, 1), (16, 32), (17, 1408), (33, 10944), (102400, 2048)):
        assert kernels.matrix_bytes(format.code, O, I) == format.bytes(O, I)


def _q4_k(parts: Parts) -> bytes:
    """One row of 256 columns as GGUF's Q4_K, written down from the format's description."""
    assert parts.minima is not None
    assert parts.d_OS is not None
    assert parts.m_OS is not None
    s, m = parts.scales[0].int().tolist(), parts.minima[0].int().tolist()
    twelve = [0] * 12
    for g in range(4):
        twelve[g] = s[g] | s[g + 4] >> 4 << 6
        twelve[g + 4] = m[g] | m[g + 4] >> 4 << 6
        twelve[g + 8] = s[g + 4] & 15 | (m[g + 4] & 15) << 4
    q = parts.quants_OI[0].view(4, 2, 32).int()
    nibbles = (q[:, 0] | q[:, 1] << 4).to(torch.uint8).flatten()
    head = torch.cat((parts.d_OS[0], parts.m_OS[0])).view(torch.uint8)
    return bytes(head.tolist()) + bytes(twelve) + bytes(nibbles.tolist())


@needs_kernels
@given(st.integers(0, 1 << 30))
@settings(max_examples=20, deadline=None)
def test_a_gguf_row_is_packed_into_the_layout_that_pytorch_writes(seed: int) -> None:
    parts = _random_parts(FORMATS["int4"], 1, 256, seed)
    assert parts.minima is not None
    parts = Parts(parts.quants_OI, parts.scales % 64, parts.minima % 64, parts.d_OS, parts.m_OS)
    raw = torch.frombuffer(bytearray(_q4_k(parts)), dtype=torch.uint8)
    assert torch.equal(ggml.pack(12, raw, (1, 256)).data, assemble(FORMATS["int4"], parts))


@needs_kernels
@given(st.integers(1, 20), st.sampled_from([32, 96, 288]), st.integers(0, 1 << 30))
@settings(max_examples=20, deadline=None)
def test_q8_0_of_a_gguf_is_packed_into_the_layout_that_pytorch_writes(O: int, I: int, seed: int) -> None:
    parts = _random_parts(FORMATS["int8"], O, I, seed)
    signed = (parts.quants_OI.int() - 128).to(torch.int8).view(torch.uint8).unflatten(1, (-1, 32))
    raw = torch.cat((parts.scales.view(torch.uint8).unflatten(1, (-1, 2)), signed), 2).flatten()
    assert torch.equal(ggml.pack(8, raw, (O, I)).data, assemble(FORMATS["int8"], parts))


@given(st.integers(1, 20), st.sampled_from([32, 128, 160, 300]), st.integers(0, 1 << 30))
@settings(max_examples=20, deadline=None)
def test_fp8_with_scales_of_its_own_loses_nothing(O: int, I: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes_OI = (torch.randn(O, I, generator=generator) * 50).to(torch.float8_e4m3fn).float()
    scales_OS = torch.rand(O, -(-I // 128), generator=generator)
    wide_OI = scales_OS.repeat_interleave(128, 1)[:, :I]
    assert torch.equal(unpack(pack_fp8(codes_OI, scales_OS)), codes_OI * wide_OI)
