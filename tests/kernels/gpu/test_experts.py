"""The mixture of experts, few tokens and many, in every kind of weight, beside the reference."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.gpu.place import DEVICE, close, numbers
from coderv2.kernels import reference, scaled
from coderv2.kernels.gpu import experts, sorting
from coderv2.kernels.scaled import Scaled


def _chosen(T: int, E: int, K: int) -> tuple[Tensor, Tensor]:
    scores_TE = numbers(T, E, seed=9).softmax(-1)
    weights_TK, experts_TK = scores_TE.topk(K)
    return weights_TK, experts_TK


def _stacks(
    E: int, D: int, F: int, S: int, dtype: torch.dtype = torch.float32
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    def some(*shape: int, seed: int) -> Tensor:
        return numbers(*shape, seed=seed, dtype=dtype) / 8

    routed = some(E, F, D, seed=1), some(E, F, D, seed=2), some(E, D, F, seed=3)
    return routed, (some(S * F, D, seed=4), some(S * F, D, seed=5), some(D, S * F, seed=6))


@pytest.mark.parametrize("tokens", [1, 3, experts.FEW + 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_routed_and_shared_in_one_call(tokens: int, dtype: torch.dtype) -> None:
    routed, shared = _stacks(6, 40, 24, 2, dtype)
    x_TD, (weights, ids) = numbers(tokens, 40, dtype=dtype), _chosen(tokens, 6, 3)
    ours = experts.mixture(x_TD, weights, ids, routed, shared)
    wanted = reference.experts(x_TD, weights, ids, *routed) + reference.swiglu(x_TD, *shared)
    close(ours, wanted)


@pytest.mark.parametrize("tokens", [2, experts.FEW + 3])
def test_a_shared_network_narrower_than_an_expert(tokens: int) -> None:
    routed, _ = _stacks(4, 32, 24, 1)
    _, shared = _stacks(1, 32, 16, 1)
    x_TD, (weights, ids) = numbers(tokens, 32), _chosen(tokens, 4, 2)
    wanted = reference.experts(x_TD, weights, ids, *routed) + reference.swiglu(x_TD, *shared)
    close(experts.mixture(x_TD, weights, ids, routed, shared), wanted)


def test_slices_that_do_not_make_the_shared_network_are_computed_apart() -> None:
    """Cut for ranks, 1,408 columns beside experts of 640 would be three slices of 469: one column was left out."""
    routed, _ = _stacks(4, 32, 20, 1)
    _, shared = _stacks(1, 32, 44, 1)
    assert not experts.joins(routed, shared)
    assert experts.joins(routed, _stacks(1, 32, 36, 1)[1])


def test_fixed_scales_of_activations_join_where_they_are_the_same() -> None:
    fixed, other = torch.tensor([0.02], device=DEVICE), torch.tensor([0.02], device=DEVICE)

    def stacks(scale: Tensor) -> list[tuple[Scaled, ...]]:
        return [
            tuple(replace(_fp8(m), input_scale=scale) for m in stack) for stack in _stacks(3, 192, 128, 2)
        ]

    assert experts.joins(*stacks(fixed))
    assert not experts.joins(stacks(fixed)[0], stacks(other)[1])


@pytest.mark.parametrize("tokens", [2, experts.FEW + 3])
def test_an_expert_of_another_machine_adds_nothing(tokens: int) -> None:
    routed, shared = _stacks(4, 32, 16, 2)
    x_TD, (weights, ids) = numbers(tokens, 32), _chosen(tokens, 4, 2)
    foreign = ids == 1
    ours = experts.mixture(x_TD, weights, ids.masked_fill(foreign, -1), routed, shared)
    here = reference.experts(x_TD, weights.masked_fill(foreign, 0), ids, *routed)
    close(ours, here + reference.swiglu(x_TD, *shared))


def _fp8(weight: Tensor) -> Scaled:
    return scaled.to_fp8(weight)


def _fixed(weight: Tensor) -> Scaled:
    return scaled.to_fp8(weight, whole=True, input_scale=0.02)


def _kept(weight: Tensor) -> Scaled:
    return replace(_fp8(weight), kind="fp8_wide")


def _kept_by_row(weight: Tensor) -> Scaled:
    found = _fp8(weight)
    by_row = found.scales.repeat_interleave(128, -2)[..., : weight.shape[-2], :]
    return scaled.Stored(1).scaled(found.codes, by_row)


@pytest.mark.parametrize("tokens", [2, experts.FEW + 9])
@pytest.mark.parametrize("kind", [_fp8, _fixed, _kept, _kept_by_row, scaled.to_int4])
def test_weights_in_fewer_bits(tokens: int, kind: object) -> None:
    plain_routed, plain_shared = _stacks(3, 192, 128, 2)
    routed, shared = (tuple(kind(m) for m in stack) for stack in (plain_routed, plain_shared))  # type: ignore[operator]
    assert experts.joins(routed, shared) == (kind is not _fixed)
    x_TD, (weights, ids) = numbers(tokens, 192), _chosen(tokens, 3, 2)
    if experts.joins(routed, shared):
        ours = experts.mixture(x_TD, weights, ids, routed, shared)
    else:
        ours = experts.experts(x_TD, weights, ids, *routed) + experts.swiglu(x_TD, *shared)
    wanted = _literal(x_TD, weights, ids, routed) + _literal_swiglu(x_TD, shared)
    close(ours, wanted, rtol=2e-2, atol=2e-2)


def _literal(x_TD: Tensor, weights_TK: Tensor, ids_TK: Tensor, stack: tuple[Scaled, ...]) -> Tensor:
    rows = []
    for t in range(len(x_TD)):
        parts = [
            weight * _literal_swiglu(x_TD[t : t + 1], tuple(_expert(m, int(e)) for m in stack))
            for weight, e in zip(weights_TK[t], ids_TK[t], strict=True)
        ]
        rows.append(torch.stack(parts).sum(0))
    return torch.cat(rows)


def _expert(stack: Scaled, e: int) -> Scaled:
    return Scaled(stack.kind, stack.codes[e], stack.scales[e], stack.span, stack.input_scale)


def _literal_swiglu(x_TD: Tensor, weights: tuple[Scaled, ...]) -> Tensor:
    def product(x: Tensor, weight: Scaled) -> Tensor:
        if weight.kind == "fp8":
            x = scaled.restore_rows(*scaled.round_rows(x, weight.input_scale))
        return x @ scaled.restore(weight).T

    gate, up, down = weights
    return product(torch.nn.functional.silu(product(x_TD, gate)) * product(x_TD, up), down)


@given(st.integers(1, 60), st.integers(2, 9), st.integers(1, 2), st.integers(0, 2), st.integers(0, 99))
@settings(max_examples=10)
def test_pairs_are_sorted_by_expert_in_order_of_their_tokens(
    T: int, E: int, K: int, S: int, seed: int
) -> None:
    ids_TK = torch.randint(-1, E, (T, K), generator=torch.Generator().manual_seed(seed)).to(DEVICE)
    order, owners = sorting.sort_pairs(ids_TK, E, S, 16)
    everyone = torch.cat((ids_TK, torch.arange(E, E + S, device=DEVICE).expand(T, S)), 1).flatten()
    for tile, expert in zip(order.view(-1, 16), owners.tolist(), strict=True):
        pairs = tile[tile >= 0]
        assert expert >= 0 or not len(pairs)
        assert bool((everyone[pairs.long()] == expert).all())
    found = order[order >= 0]
    for expert in range(E + S):
        mine = found[everyone[found.long()] == expert]
        assert mine.tolist() == (everyone == expert).nonzero().flatten().tolist()
