import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from coderv2.data.shards import as_example
from coderv2.model.transformer import Transformer
from coderv2.training.config import OptimConfig
from coderv2.training.losses import row_loss
from coderv2.training.optim import Optimiser, is_inner_matrix, learning_rate, newton_schulz
from tests.tiny import tiny_config, tiny_model


def backward(model: Transformer) -> None:
    row_loss(model, [as_example([5, 6, 7, 8, 9])], alpha=0.01).loss.backward()


@given(st.integers(1, 3), st.sampled_from([(8, 8), (8, 24), (24, 8)]), st.integers(0, 99))
def test_newton_schulz_brings_singular_values_near_one(count: int, shape: tuple[int, int], seed: int) -> None:
    stack = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))
    values = torch.linalg.svdvals(newton_schulz(stack).float())
    assert values.max() < 1.3
    assert values.median() > 0.6


def test_a_zero_gradient_stays_zero() -> None:
    assert newton_schulz(torch.zeros(1, 4, 4)).abs().max() == 0


def test_muon_moves_inner_matrices_only() -> None:
    model = tiny_model(tiny_config())
    inner = {name for name, weight in model.named_parameters() if is_inner_matrix(name, weight)}
    assert "layers.1.mlp.experts.gate_proj" in inner
    assert not {"embed_tokens", "lm_head", "norm", "layers.1.mlp.gate"} & inner


def test_gathered_gradients_add_up_in_float32() -> None:
    model = tiny_model(tiny_config()).bfloat16().requires_grad_()
    optimiser = Optimiser(model, OptimConfig())
    backward(model)
    once: Tensor = torch.cat([p.grad.float().flatten() for p in model.parameters() if p.grad is not None])
    optimiser.gather()
    backward(model)
    optimiser.gather()
    assert all(weight.grad is None for weight in model.parameters())
    assert optimiser.scale_gradients(0.5) == pytest.approx(float(once.norm()), rel=1e-2)


def test_a_step_moves_every_weight_and_only_then() -> None:
    model = tiny_model(tiny_config()).requires_grad_()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    optimiser = Optimiser(model, OptimConfig(warmup_steps=0))
    for _ in range(3):  # so that each expert was chosen
        backward(model)
    optimiser.gather()
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    optimiser.step(rate=1.0)
    assert all(not torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_the_state_brings_another_model_to_the_same_weights_and_updates() -> None:
    first, second = (tiny_model(tiny_config(), seed=seed).requires_grad_() for seed in (0, 1))
    one, two = Optimiser(first, OptimConfig()), Optimiser(second, OptimConfig())
    backward(first)
    one.gather()
    one.step(1.0)
    two.load(copy.deepcopy(one.state()))
    for model, optimiser in ((first, one), (second, two)):
        backward(model)
        optimiser.gather()
        optimiser.step(1.0)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_loaded_state_leaves_the_settings_as_they_are() -> None:
    model = tiny_model(tiny_config()).requires_grad_()
    config = OptimConfig(weight_decay=0.5, beta2=0.99, momentum=0.5)
    loaded = Optimiser(model, config)
    loaded.load(Optimiser(model, OptimConfig()).state())
    groups = [group for part in loaded.state()["parts"] for group in part["param_groups"]]
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0, 0.5]
    assert groups[0]["betas"] == (0.9, 0.99)
    assert groups[2]["momentum"] == 0.5


@pytest.mark.parametrize(
    ("step", "progress", "rate"),
    [(0, 0.0, 0.1), (9, 0.0, 1.0), (500, 0.5, 0.55), (900, 1.0, 0.1), (900, 1.5, 0.1)],
)
def test_the_rate_warms_up_and_falls_to_a_tenth(step: int, progress: float, rate: float) -> None:
    assert learning_rate(OptimConfig(warmup_steps=10, final=0.1), step, progress) == pytest.approx(rate)
