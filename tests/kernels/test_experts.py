"""Feed-forward networks over packed weights: `reference` on the unpacked ones, whoever each token's experts are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from coderv2.kernels import native, reference
from coderv2.kernels.native import FeedForward
from coderv2.kernels.packing import unpack
from tests.kernels.packed import BOUNDS, HARD, random, random_weight, relative_error

E, K, D, F = 6, 3, 96, 40
formats = pytest.mark.parametrize("format", BOUNDS)


def _network(
    format: str, *stack: int, width: int = D, inner: int = F, down: str | None = None
) -> FeedForward:
    return (
        random_weight(format, *stack, inner, width, seed=1),
        random_weight(format, *stack, inner, width, seed=2),
        random_weight(down or format, *stack, width, inner, seed=3),
    )


def _doubles(network: FeedForward) -> list[Tensor]:
    return [unpack(weight).double() for weight in network]


def _routing(tokens: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    weights_TK, experts_TK = random(tokens, E, seed=seed).softmax(-1).topk(K)
    return weights_TK, experts_TK


def _expected(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    routed: FeedForward | None,
    shared: FeedForward | None,
) -> Tensor:
    out_TD = torch.zeros(x_TD.shape, dtype=torch.float64)
    if routed is not None:
        out_TD += reference.experts(x_TD.double(), weights_TK, experts_TK, *_doubles(routed))
    return out_TD + reference.swiglu(x_TD.double(), *_doubles(shared)) if shared else out_TD


@formats
@pytest.mark.parametrize("tokens", [1, 2, 7, 33, 70])
def test_mixture_is_the_references_within_the_formats_bound(
    isa_or_none: str, format: str, tokens: int
) -> None:
    routed, shared = _network(format, E), _network(format, inner=2 * F)
    x_TD, routing = random(tokens, D, seed=tokens), _routing(tokens)
    for parts in ((routed, shared), (routed, None)):
        out_TD = native.mixture(x_TD, *routing, *parts)
        assert relative_error(out_TD, _expected(x_TD, *routing, *parts)) < 1.5 * BOUNDS[format][1]


@formats
@pytest.mark.parametrize("inner", [1408, 100])
def test_swiglu_of_odd_widths(isa_or_none: str, format: str, inner: int) -> None:
    network = _network(format, width=72, inner=inner)
    for tokens in (1, 21):
        x_TD = random(tokens, 72)
        expected_TD = reference.swiglu(x_TD.double(), *_doubles(network))
        out_TD = native.swiglu(x_TD, *network)
        assert relative_error(out_TD, expected_TD) < 1.5 * BOUNDS[format][1]


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("format", ["f32", "bf16", "fp8", "int8", "int4"])
def test_mixture_of_rows_that_are_hard_to_round(isa_or_none: str, format: str, kind: str) -> None:
    routed, shared = _network(format, E), _network(format)
    x_TD, routing = HARD[kind](random(9, D)), _routing(9)
    out_TD = native.mixture(x_TD, *routing, routed, shared)
    assert relative_error(out_TD, _expected(x_TD, *routing, routed, shared)) < 3 * BOUNDS[format][1]


@pytest.mark.parametrize(
    ("gate", "down", "shared"),
    [
        ("int4", "q6_two", "int4"),
        ("int4", "q5_flat", "q6_two"),
        ("bf16", "f32", "int8"),
        ("fp8", "int8", "bf16"),
    ],
)
def test_matrices_of_one_mixture_may_differ_in_format(
    isa_or_none: str, gate: str, down: str, shared: str
) -> None:
    routed, common = _network(gate, E, down=down), _network(shared)
    routed = (routed[0], random_weight("q8_two", E, F, D, seed=2), routed[2])
    x_TD, routing = random(19, D), _routing(19)
    out_TD = native.mixture(x_TD, *routing, routed, common)
    assert relative_error(out_TD, _expected(x_TD, *routing, routed, common)) < 2 * BOUNDS["int4"][1]


@pytest.mark.parametrize("format", ["f32", "int4", "int8", "bf16"])
@given(st.data())
@settings(max_examples=20)
def test_any_routing(isa_or_none: str, format: str, data: st.DataObject) -> None:
    tokens = data.draw(st.integers(1, 40))
    used = data.draw(st.lists(st.integers(0, E - 1), min_size=1, max_size=E, unique=True))
    choices = st.lists(st.sampled_from(used), min_size=K, max_size=K)
    experts_TK = torch.tensor(data.draw(st.lists(choices, min_size=tokens, max_size=tokens)))
    x_TD, weights_TK, routed = random(tokens, D), random(tokens, K, seed=1), _network(format, E)
    out_TD = native.mixture(x_TD, weights_TK, experts_TK, routed, None)
    expected_TD = _expected(x_TD, weights_TK, experts_TK, routed, None)
    assert relative_error(out_TD, expected_TD) < 3 * BOUNDS[format][1]


@formats
@given(st.data())
@settings(max_examples=15)
def test_experts_that_are_computed_elsewhere_add_nothing(
    isa_or_none: str, format: str, data: st.DataObject
) -> None:
    tokens = data.draw(st.integers(1, 40))
    choices = st.lists(st.integers(-1, E - 1), min_size=K, max_size=K)
    experts_TK = torch.tensor(data.draw(st.lists(choices, min_size=tokens, max_size=tokens)))
    x_TD, weights_TK, routed, shared = (
        random(tokens, D),
        random(tokens, K),
        _network(format, E),
        _network(format),
    )
    for network in (shared, None):
        out_TD = native.mixture(x_TD, weights_TK, experts_TK, routed, network)
        expected_TD = _expected(x_TD, weights_TK, experts_TK, routed, network)
        assert relative_error(out_TD, expected_TD) < 3 * BOUNDS[format][1]
        here = (experts_TK >= 0).any(1) if network is None else torch.ones(tokens, dtype=torch.bool)
        assert not out_TD[~here].any()


def test_the_result_can_be_written_where_the_caller_wants_it(isa_or_none: str) -> None:
    x_TD, routing, routed = random(5, D), _routing(5), _network("int4", E)
    place_TD = torch.full((5, D), 7.0)
    out_TD = native.mixture(x_TD, *routing, routed, None, out=place_TD)
    assert out_TD is place_TD
    assert torch.equal(place_TD, native.mixture(x_TD, *routing, routed, None))


@formats
def test_all_tokens_on_one_expert_are_one_network(isa: str, format: str) -> None:
    routed, x_TD = _network(format, E), random(37, D)
    one = tuple(native.Weight(weight.format, weight.shape[1:], weight.data[4].clone()) for weight in routed)
    experts_T1, weights_T1 = torch.full((37, 1), 4), torch.ones(37, 1)
    out_TD = native.mixture(x_TD, weights_T1, experts_T1, routed, None)
    assert torch.equal(out_TD, native.swiglu(x_TD, *one))


@formats
@given(st.data())
@settings(max_examples=15)
def test_a_tokens_bits_do_not_depend_on_the_tokens_beside_it(
    isa: str, format: str, data: st.DataObject
) -> None:
    tokens = 60
    routed, shared, x_TD = _network(format, E), _network(format), random(tokens, D)
    weights_TK, experts_TK = _routing(tokens)
    whole_TD = native.mixture(x_TD, weights_TK, experts_TK, routed, shared)
    chosen = data.draw(st.lists(st.integers(0, tokens - 1), min_size=1, max_size=tokens))
    part_TD = native.mixture(x_TD[chosen], weights_TK[chosen], experts_TK[chosen], routed, shared)
    assert torch.equal(part_TD, whole_TD[chosen])
    cuts = data.draw(st.lists(st.integers(0, tokens), max_size=5).map(sorted))
    rows = [part.tensor_split(cuts) for part in (x_TD, weights_TK, experts_TK)]
    pieces = [native.mixture(*piece, routed, shared) for piece in zip(*rows, strict=True)]
    assert torch.equal(torch.cat(pieces), whole_TD)


@pytest.mark.parametrize("format", ["f32", "int4"])
def test_more_tokens_than_go_through_at_once(isa: str, format: str) -> None:
    tokens = 2100
    routed, shared = _network(format, E, width=32, inner=16), _network(format, width=32, inner=16)
    x_TD, (weights_TK, experts_TK) = random(tokens, 32), _routing(tokens)
    out_TD = native.mixture(x_TD, weights_TK, experts_TK, routed, shared)
    assert relative_error(out_TD, _expected(x_TD, weights_TK, experts_TK, routed, shared)) < 0.03
    last = slice(tokens - 3, None)
    alone_TD = native.mixture(x_TD[last], weights_TK[last], experts_TK[last], routed, shared)
    assert torch.equal(alone_TD, out_TD[last])


@formats
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_with_its_token(isa: str, format: str, poison: float) -> None:
    routed, shared, x_TD = _network(format, E), _network(format), random(20, D)
    routing = _routing(20)
    clean_TD = native.mixture(x_TD, *routing, routed, shared)
    x_TD[11, 5] = poison
    out_TD = native.mixture(x_TD, *routing, routed, shared)
    others = torch.arange(20) != 11
    assert torch.equal(out_TD[others], clean_TD[others])
    assert not out_TD[11].isfinite().any()


def test_no_tokens_give_no_rows(isa_or_none: str) -> None:
    routed, shared = _network("int4", E), _network("int4")
    out_TD = native.mixture(torch.empty(0, D), torch.empty(0, K), torch.empty(0, K).long(), routed, shared)
    assert out_TD.shape == (0, D)


def test_an_expert_that_does_not_exist_is_refused(isa: str) -> None:
    experts_TK = torch.zeros(4, K, dtype=torch.long)
    experts_TK[2, 1] = E
    with pytest.raises(IndexError, match=f"expert {E}"):
        native.mixture(random(4, D), torch.ones(4, K), experts_TK, _network("int4", E), None)
