"""Routing in C++ against `routing.choose`."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coderv2.kernels import native, packing
from coderv2.kernels.routing import Routing, choose
from tests.kernels.packed import random

routings = st.one_of(
    st.builds(
        Routing, st.integers(1, 6), st.just(1), st.just(1), st.sampled_from([1.0, 16.0]), st.booleans()
    ),
    st.builds(
        Routing, st.integers(1, 6), st.just(4), st.integers(2, 4), st.sampled_from([1.0, 16.0]), st.booleans()
    ),
)


@given(routings, st.integers(0, 20), st.sampled_from([12, 64, 160]), st.integers(0, 5))
def test_route_is_choose(isa: str, routing: Routing, T: int, E: int, seed: int) -> None:
    x_TD, weight_ED = random(T, 24, seed=seed), random(E, 24, seed=seed + 1)
    scores_TE, weights_TK, experts_TK = native.route(x_TD, packing.pack(weight_ED, "f32"), routing)
    torch.testing.assert_close(scores_TE, (x_TD @ weight_ED.T).softmax(-1), rtol=1e-4, atol=1e-7)
    expected_weights_TK, expected_TK = choose(scores_TE, routing)
    assert torch.equal(experts_TK, expected_TK)
    torch.testing.assert_close(weights_TK, expected_weights_TK, rtol=1e-6, atol=0)


def test_of_equal_experts_the_first_is_chosen(isa: str) -> None:
    same = packing.pack(torch.zeros(16, 8), "f32")
    _, weights_TK, experts_TK = native.route(random(3, 8), same, Routing(3, 4, 2, 1.0, renormalise=False))
    assert experts_TK.tolist() == [[0, 1, 2]] * 3
    assert (weights_TK == 1 / 16).all()


@pytest.mark.parametrize("groups", [1, 4])
def test_affinities_that_are_not_numbers_still_name_experts(isa: str, groups: int) -> None:
    x_TD = random(2, 8)
    x_TD[1, 3] = float("nan")
    routing = Routing(6, groups, max(1, groups // 2), 1.0, renormalise=False)
    _, weights_TK, experts_TK = native.route(x_TD, packing.pack(random(16, 8, seed=1), "f32"), routing)
    assert weights_TK[0].isfinite().all()
    assert weights_TK[1].isnan().all()
    assert all(len(set(row)) == 6 and min(row) >= 0 and max(row) < 16 for row in experts_TK.tolist())
