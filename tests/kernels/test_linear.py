"""Products with packed weights: `reference` on the unpacked ones, for every format and instruction set."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coderv2.kernels import native, reference
from coderv2.kernels.formats import Weight
from coderv2.kernels.packing import unpack
from tests.kernels.packed import BOUNDS, HARD, random, random_weight, relative_error

SHAPES = [(1, 32), (16, 256), (20, 1408), (33, 100), (5, 17), (70, 288), (7, 10944)]
"""[O, I]: whole blocks, and odd ones."""
ROWS = 70
formats = pytest.mark.parametrize("format", BOUNDS)


def _expected(x_TD: torch.Tensor, weight: Weight) -> torch.Tensor:
    return reference.linear(x_TD.double(), unpack(weight).double())


@formats
@pytest.mark.parametrize("shape", SHAPES)
def test_linear_is_the_references_within_the_formats_bound(
    isa_or_none: str, format: str, shape: tuple[int, int]
) -> None:
    weight = random_weight(format, *shape)
    inputs = [random(rows, shape[1], seed=rows) for rows in (1, 2, 3, 5, 16, 37, ROWS)]
    outputs = [native.linear(x_TD, weight) for x_TD in inputs]
    assert [out_TO.shape for out_TO in outputs] == [(len(x_TD), shape[0]) for x_TD in inputs]
    # All together, since a single number may be small by chance, and its error not.
    assert relative_error(torch.cat(outputs), _expected(torch.cat(inputs), weight)) < BOUNDS[format][0]


@formats
@pytest.mark.parametrize("kind", HARD)
def test_linear_of_rows_that_are_hard_to_round(isa_or_none: str, format: str, kind: str) -> None:
    weight, x_TD = random_weight(format, 48, 1408), HARD[kind](random(9, 1408))
    out_TO, expected_TO = native.linear(x_TD, weight), _expected(x_TD, weight)
    assert relative_error(out_TO, expected_TO) < 2 * BOUNDS[format][0]
    nothing = x_TD.abs().amax(1) == 0
    assert torch.equal(out_TO[nothing], torch.zeros_like(out_TO[nothing]))


@formats
def test_a_row_of_denormals_gives_as_good_as_nothing(isa_or_none: str, format: str) -> None:
    x_TD = torch.cat((random(1, 288), random(1, 288) * 1e-40))
    weight = random_weight(format, 20, 288)
    out_TO = native.linear(x_TD, weight)
    assert out_TO[1].abs().max() < 1e-37
    assert relative_error(out_TO[:1], _expected(x_TD[:1], weight)) < 1.5 * BOUNDS[format][0]


@pytest.mark.parametrize("format", ["f32", "bf16", "fp8", "int8", "int4"])
@pytest.mark.parametrize("size", [0.0, 1e-40, 1e-6, 100.0])
def test_weights_of_any_size_that_a_format_can_hold(isa_or_none: str, format: str, size: float) -> None:
    weight = native.packing.pack(random(20, 288) * size, format)
    x_TD = random(5, 288, seed=1)
    error = (native.linear(x_TD, weight) - _expected(x_TD, weight)).norm()
    assert error <= BOUNDS[format][0] * _expected(x_TD, weight).norm() + 1e-36


@pytest.mark.parametrize("format", BOUNDS)
@pytest.mark.parametrize("I", [64, 300, 512])
def test_rows_in_two_parts_are_as_good_as_float32(isa_or_none: str, format: str, I: int) -> None:
    weight, x_TI = random_weight(format, 48, I), random(5, I)
    x_TI[1] = 0
    x_TI[2, 3] = 100
    exact_TO = reference.linear(x_TI, unpack(weight))
    assert relative_error(native.fine_linear(x_TI, weight), exact_TO) < (5e-3 if format == "bf16" else 2e-4)
    x_TI[3, 0] = float("nan")
    assert native.fine_linear(x_TI, weight)[3].isnan().all()


@formats
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_row(isa: str, format: str, poison: float) -> None:
    weight, x_TD = random_weight(format, 20, 416), random(31, 416)
    clean_TO = native.linear(x_TD, weight)
    x_TD[[0, 17], [3, 400]] = poison
    out_TO = native.linear(x_TD, weight)
    others = torch.ones(31, dtype=torch.bool)
    others[[0, 17]] = False
    assert torch.equal(out_TO[others], clean_TO[others])
    assert not out_TO[~others].isfinite().any()


@formats
@given(st.data())
@settings(max_examples=20)
def test_a_rows_bits_do_not_depend_on_the_rows_beside_it(isa: str, format: str, data: st.DataObject) -> None:
    O, I = data.draw(st.sampled_from([(5, 17), (20, 100), (33, 288), (16, 1408)]))
    weight, x_TD = random_weight(format, O, I), random(ROWS, I)
    whole_TO = native.linear(x_TD, weight)
    chosen = data.draw(st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=ROWS))
    assert torch.equal(native.linear(x_TD[chosen], weight), whole_TO[chosen])
    cuts = data.draw(st.lists(st.integers(0, ROWS), max_size=6).map(sorted))
    pieces = [native.linear(piece, weight) for piece in x_TD.tensor_split(cuts)]
    assert torch.equal(torch.cat(pieces), whole_TO)


@formats
def test_no_rows_give_no_rows(isa_or_none: str, format: str) -> None:
    assert native.linear(torch.empty(0, 100), random_weight(format, 20, 100)).shape == (0, 20)


def test_no_rows_at_a_threads_first_product(isa: str) -> None:
    # A thread's memory is kept, so that only its first product finds no tile at all.
    given: list[torch.Size] = []
    weight = random_weight("f32", 20, 100)
    first = threading.Thread(target=lambda: given.append(native.linear(torch.empty(0, 100), weight).shape))
    first.start()
    first.join()
    assert given == [(0, 20)]


def test_rows_in_another_type_or_order_are_the_same_rows(isa_or_none: str) -> None:
    weight, x_TD = random_weight("int4", 20, 100), random(9, 100).bfloat16()
    assert torch.equal(native.linear(x_TD, weight), native.linear(x_TD.float(), weight))
    assert torch.equal(native.linear(x_TD.T.contiguous().T, weight), native.linear(x_TD, weight))


def test_rows_of_another_width_are_refused(isa: str) -> None:
    with pytest.raises(ValueError, match=r"\(3, 99\).*width 100"):
        native.linear(random(3, 99), random_weight("bf16", 20, 100))


@formats
@pytest.mark.parametrize(("heads", "O", "I"), [(3, 20, 32), (16, 128, 64), (5, 7, 33)])
def test_head_linear_is_each_heads_own_product(
    isa_or_none: str, format: str, heads: int, O: int, I: int
) -> None:
    weight = random_weight(format, heads, O, I)
    maps_HIO = unpack(weight).transpose(1, 2)
    for rows in (0, 1, 4, 19):
        x_THI = random(rows, heads, I, seed=rows)
        out_THO = native.head_linear(x_THI, weight)
        assert out_THO.shape == (rows, heads, O)
        expected_THO = reference.head_linear(x_THI.double(), maps_HIO.double())
        assert relative_error(out_THO, expected_THO) < 2 * BOUNDS[format][0]


@formats
@given(st.lists(st.integers(0, 29), min_size=1, max_size=30))
@settings(max_examples=10)
def test_head_linear_treats_each_row_by_itself(isa: str, format: str, chosen: list[int]) -> None:
    weight, x_THI = random_weight(format, 3, 20, 40), random(30, 3, 40)
    assert torch.equal(native.head_linear(x_THI[chosen], weight), native.head_linear(x_THI, weight)[chosen])


@formats
def test_embedding_gives_the_stored_numbers_of_each_token(isa_or_none: str, format: str) -> None:
    weight = random_weight(format, 100, 416)
    ids_T = torch.tensor([99, 0, 17, 17, 63])
    torch.testing.assert_close(native.embedding(ids_T, weight), unpack(weight)[ids_T], rtol=2e-7, atol=0)
    assert native.embedding(torch.empty(0, dtype=torch.long), weight).shape == (0, 416)


@pytest.mark.parametrize("bad", [-1, 100])
def test_a_token_without_a_row_is_refused(isa: str, bad: int) -> None:
    with pytest.raises(IndexError, match="0 to 99"):
        native.embedding(torch.tensor([3, bad]), random_weight("int4", 100, 32))
