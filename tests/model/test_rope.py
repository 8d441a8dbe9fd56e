"""Against the numbers of the specification (§4.3), which were computed in double precision elsewhere."""

import pytest
import torch

from coderv2.kernels import reference
from coderv2.model.rope import inverse_frequencies, rotary_table, softmax_scale, turning_table
from tests.tiny import tiny_config

PUBLISHED = {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64}


@pytest.mark.parametrize(("family", "scale"), [("lite", 0.1147213868), ("full", 0.1352337789)])
def test_softmax_scale_carries_the_square_of_the_configs_own_mscale(family: str, scale: float) -> None:
    assert softmax_scale(tiny_config(family, **PUBLISHED)) == pytest.approx(scale, abs=1e-9)


def test_softmax_scale_without_yarn_is_the_plain_one() -> None:
    config = tiny_config(rope_scaling=None, **PUBLISHED)
    assert softmax_scale(config) == pytest.approx(0.0721687836, abs=1e-9)


def test_inverse_frequencies_match_the_published_check_values() -> None:
    inv_freq = inverse_frequencies(tiny_config(**PUBLISHED))
    expected = {
        0: 1.0,
        10: 0.0562341325,
        11: 0.0390069266,
        16: 0.0055,
        22: 1.778279410e-4,
        23: 3.333803580e-5,
        31: 3.333803581e-6,
    }
    for pair, value in expected.items():
        assert inv_freq[pair].item() == pytest.approx(value, rel=2e-6), pair


def test_table_is_unscaled_when_both_mscales_agree() -> None:
    config = tiny_config()
    cos, sin = rotary_table(config, torch.tensor([0, 5000]), inverse_frequencies(config))
    torch.testing.assert_close(cos**2 + sin**2, torch.ones_like(cos))


def test_scores_depend_only_on_the_distance_between_query_and_key() -> None:
    config = tiny_config()
    inv_freq = inverse_frequencies(config)
    q, k = torch.randn(2, 1, config.qk_rope_head_dim, generator=torch.Generator().manual_seed(0))

    def score(at: int, distance: int) -> float:
        turned = [
            reference.rope(x, *rotary_table(config, torch.tensor([p]), inv_freq))
            for x, p in ((q, at), (k, at - distance))
        ]
        return (turned[0] * turned[1]).sum().item()

    assert score(700, 33) == pytest.approx(score(90, 33), abs=1e-4)
    assert score(700, 33) != pytest.approx(score(700, 34), abs=1e-4)


@pytest.mark.parametrize(("old", "new"), [(0, 5), (900, 905), (905, 900), (4000, 3500), (100_000, 120_000)])
def test_turned_keys_are_the_keys_of_the_new_positions(old: int, new: int) -> None:
    config = tiny_config("lite", qk_rope_head_dim=64)
    inv_freq = inverse_frequencies(config)
    k_SR = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    old_S, new_S = (torch.arange(start, start + 20) for start in (old, new))
    there_SR, here_SR = (reference.rope(k_SR, *rotary_table(config, p, inv_freq)) for p in (old_S, new_S))
    turned_SR = reference.rope(there_SR, *turning_table(old_S, new_S, inv_freq))
    torch.testing.assert_close(turned_SR, here_SR, rtol=1e-5, atol=1e-5)
