"""What rounding costs, computed by hand on a tiny model."""

import pytest
import torch

from coderv2.errors import Unsupported
from coderv2.kernels.scaled import Scaled, restore, to_fp8, to_int4
from coderv2.model.batch import Batch
from coderv2.model.published import published_tensors
from coderv2.model.quality import Cost, cost, distributions, rounded, to_static_fp8
from coderv2.model.transformer import Transformer
from coderv2.model.weights import update
from tests.tiny import tiny_config, tiny_model

ROWS = [[(7 * i + r) % 500 + 3 for i in range(40 + r)] for r in range(3)]


def _cost(wide: Transformer, ours: Transformer, dtype: torch.dtype | None = None) -> Cost:
    return cost(distributions(wide, ROWS), distributions(ours, ROWS, dtype), ROWS)


def _model(**shape: int) -> Transformer:
    return tiny_model(tiny_config(moe_intermediate_size=64, intermediate_size=128, **shape))


def test_nothing_rounded_costs_nothing() -> None:
    found = _cost(_model(), _model())
    assert found.kl == pytest.approx(0, abs=1e-9)
    assert found.same_first == 1
    assert found.tokens == sum(len(row) - 1 for row in ROWS)


def test_it_is_the_mean_divergence_over_all_places() -> None:
    wide, other = _model(), tiny_model(_model().config, seed=1)
    kls, nats = [], []
    for row in ROWS:
        with torch.inference_mode():
            p, q = (model(Batch.packed([row]))[:-1].log_softmax(-1) for model in (wide, other))
        kls.append((p.exp() * (p - q)).sum(-1))
        nats.append(-q.gather(1, torch.tensor(row[1:])[:, None]))
    found = _cost(wide, other)
    assert found.kl == pytest.approx(float(torch.cat(kls).mean()), rel=1e-4)
    assert found.perplexity == pytest.approx(float(torch.cat(nats).mean().exp()), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_cache_of_few_bits_costs_something(dtype: torch.dtype) -> None:
    assert 0 < _cost(_model(), _model(), dtype).kl < 0.05


def test_int4_is_what_its_numbers_give() -> None:
    wide, ours = _model(), rounded(_model(), to_int4)
    plain = _model()
    for (_, rough), (_, module) in zip(ours.named_modules(), plain.named_modules(), strict=True):
        for name, value in vars(rough).items():
            if isinstance(value, Scaled):
                module.get_parameter(name).data.copy_(restore(value))
    assert _cost(plain, ours).kl == pytest.approx(0, abs=1e-7)
    assert _cost(wide, ours).kl > 1e-4


def test_rounded_weights_are_not_changed_in_place() -> None:
    with pytest.raises(Unsupported, match="rounded on load"):
        update(rounded(_model(), to_int4), dict(published_tensors(_model())))


def test_fp8_rounds_the_rows_too_and_static_scales_cover_what_they_were_taken_from() -> None:
    block, static = rounded(_model(), to_fp8), to_static_fp8(_model(), ROWS)
    costs = [_cost(_model(), ours).kl for ours in (block, static)]
    assert all(0 < one < 0.1 for one in costs)
    scaled = [
        value for module in static.modules() for value in vars(module).values() if isinstance(value, Scaled)
    ]
    assert all(value.input_scale is not None and value.span == value.shape[-2:] for value in scaled)
    assert (
        len(scaled) == 3 * 3 + 3 + 2 * 6
    )  # attention of three layers, a dense one, experts and shared ones of two
