"""Which experts are chosen with which weights, and what the balance loss rewards."""

import pytest
import torch

from coderv2.kernels.routing import choose
from coderv2.model.batch import RouterRecord
from coderv2.model.moe import balance_loss, routing
from tests.tiny import tiny_config


def _scores(tokens: int, experts: int) -> torch.Tensor:
    return torch.randn(tokens, experts, generator=torch.Generator().manual_seed(0)).softmax(-1)


def test_greedy_takes_the_best_and_does_not_renormalise() -> None:
    scores = _scores(9, 16)
    weights, ids = choose(scores, routing(tiny_config("lite")))
    torch.testing.assert_close(weights, scores.sort(-1, descending=True).values[:, :6])
    torch.testing.assert_close(scores.gather(1, ids), weights)


def test_group_limit_keeps_the_three_groups_with_the_best_single_expert() -> None:
    scores = _scores(50, 40)
    weights, ids = choose(scores, routing(tiny_config("full")))
    for t in range(50):
        best = [max(scores[t, g * 5 : g * 5 + 5].tolist()) for g in range(8)]
        allowed = sorted(range(8), key=lambda g: -best[g])[:3]
        candidates = sorted((e for e in range(40) if e // 5 in allowed), key=lambda e: -scores[t, e].item())[
            :6
        ]
        assert ids[t].tolist() == candidates
    torch.testing.assert_close(weights, scores.gather(1, ids) * 16.0)


def test_renormalised_weights_do_not_also_get_the_factor() -> None:
    weights, _ = choose(_scores(9, 40), routing(tiny_config("full", norm_topk_prob=True)))
    torch.testing.assert_close(weights.sum(-1), torch.ones(9))


def test_balance_loss_is_alpha_when_even_and_grows_when_not() -> None:
    even = RouterRecord(torch.full((8, 4), 0.25), torch.arange(8).remainder(4)[:, None])
    lopsided = RouterRecord(
        torch.tensor([[0.97, 0.01, 0.01, 0.01]]).repeat(8, 1), torch.zeros(8, 1, dtype=torch.long)
    )
    assert balance_loss(even, (0, 8), alpha=0.003).item() == pytest.approx(0.003)
    assert balance_loss(lopsided, (0, 8), alpha=0.003).item() == pytest.approx(0.003 * 4 * 0.97)


def test_balance_loss_is_a_mean_over_sequences_with_gradient_through_affinity_only() -> None:
    scores = _scores(6, 4).requires_grad_()
    record = RouterRecord(scores, scores.topk(2).indices)
    whole = balance_loss(record, (0, 4, 6), alpha=1.0)
    parts = [
        balance_loss(RouterRecord(scores[a:b], record.experts_TK[a:b]), (0, b - a), alpha=1.0)
        for a, b in [(0, 4), (4, 6)]
    ]
    torch.testing.assert_close(whole, torch.stack(parts).mean())
    whole.backward()
    assert scores.grad is not None
    assert scores.grad.abs().sum() > 0
