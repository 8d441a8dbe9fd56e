"""Plans of what lies where: never over the budget, more memory never means fewer experts, everything in one place."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coderv2.errors import InvalidValue
from coderv2.kernels.scaled import Kind
from coderv2.model.config import ModelConfig
from coderv2.model.placement import Demand, Plan, Sizes, chosen, plan
from coderv2.model.usage import Usage, layers_of_experts
from tests.published import FULL, LITE
from tests.tiny import tiny_config

CONFIGS = {
    "lite": ModelConfig.from_dict(LITE),
    "full": ModelConfig.from_dict(FULL),
    "tiny": tiny_config("full"),
}
SIZES = {name: Sizes.of(config, torch.bfloat16, None) for name, config in CONFIGS.items()}
demands = st.builds(
    lambda token, least, more, work, recorded: Demand(token, least + more, least, work, recorded),
    st.integers(1, 70_000), st.integers(1, 200_000), st.integers(0, 10_000_000), st.integers(0, 10**10),
    st.integers(0, 10**9),
)  # fmt: skip
models = st.sampled_from(list(CONFIGS))
beyond = st.one_of(st.integers(-(10**9), 10**9), st.integers(0, 600 * 10**9))
"""Bytes above what must be on the device."""


@st.composite
def usages(draw: st.DrawFn, config: ModelConfig) -> Usage | None:
    """Counts of experts, or none."""
    if draw(st.booleans()):
        return None
    seed = draw(st.integers(0, 1 << 20))
    generator = torch.Generator().manual_seed(seed)
    rows = {
        layer: torch.randint(0, 50, (config.n_routed_experts,), generator=generator)
        for layer in layers_of_experts(config)
    }
    return Usage({layer: tuple(row.tolist()) for layer, row in rows.items()})


def _planned(name: str, demand: Demand, above: int, usage: Usage | None) -> Plan | None:
    budget = SIZES[name].fixed + demand.work + demand.least * demand.token + above
    try:
        return plan(CONFIGS[name], SIZES[name], demand, budget, usage)
    except InvalidValue:
        assert above < 0
        return None


@given(st.data(), models, demands, beyond)
def test_a_plan_keeps_the_budget_and_places_everything_once(
    data: st.DataObject, name: str, demand: Demand, above: int
) -> None:
    config = CONFIGS[name]
    made = _planned(name, demand, above, data.draw(usages(config)))
    if made is None:
        return
    assert made.on_device <= made.budget
    assert demand.least <= made.cache_tokens <= demand.tokens
    assert made.work == demand.work + (demand.recorded if made.placement.whole else 0)
    everyone = set(range(config.n_routed_experts))
    assert list(made.placement.near) == layers_of_experts(config)
    for layer, near in made.placement.near.items():
        far = made.placement.far(layer)
        assert set(near) | set(far) == everyone
        assert len(near) + len(far) == len(everyone)
        assert list(near) == sorted(near)


@given(st.data(), models, demands, beyond, st.integers(0, 10**11))
def test_more_memory_only_adds_experts(
    data: st.DataObject, name: str, demand: Demand, above: int, more: int
) -> None:
    usage = data.draw(usages(CONFIGS[name]))
    small, large = (_planned(name, demand, size, usage) for size in (above, above + more))
    if small is None:
        return
    assert large is not None, "what fits little memory fits more"
    for layer, near in small.placement.near.items():
        assert set(near) <= set(large.placement.near[layer])


@given(st.data(), st.integers(0, 200))
def test_the_most_used_stay(data: st.DataObject, count: int) -> None:
    config = CONFIGS["tiny"]
    usage = data.draw(usages(config))
    made = chosen(config, count, usage)
    assert made.count == min(count, made.total)
    if usage is None:
        sizes = [len(near) for near in made.near.values()]
        assert sizes == sorted(sizes, reverse=True)
        assert sum(0 < size < made.E for size in sizes) <= 1, "layers are filled one after another"
        return
    inside = [usage.share(layer, [e]) for layer, near in made.near.items() for e in near]
    outside = [usage.share(layer, [e]) for layer in made.near for e in made.far(layer)]
    assert not inside or not outside or min(inside) >= max(outside)


def test_too_little_for_attention_is_an_error_with_the_parts_and_the_ways_out() -> None:
    with pytest.raises(InvalidValue, match=r"1\.0 GB .* 2\.6 GB for attention, .*4,096 tokens.*fp8 or int4"):
        plan(CONFIGS["lite"], SIZES["lite"], Demand(31104, 10**6, 4096, 10**9), 10**9)


@pytest.mark.parametrize("kind", [None, "fp8", "int4"])
def test_sizes_are_those_of_weights_that_are_there(kind: Kind | None, tmp_path: Any) -> None:
    from coderv2.model.loading import open_model
    from coderv2.model.weights import save
    from tests.tiny import tiny_model

    config = tiny_config(
        "full", hidden_size=128, intermediate_size=128, moe_intermediate_size=64, q_lora_rank=64
    )
    save(tiny_model(config), tmp_path)
    sizes = Sizes.of(config, torch.float32, kind)
    model = open_model(tmp_path, dtype=torch.float32, scaled=kind, placement=chosen(config, 50))
    count = {True: 0, False: 0}
    for name, tensor in model.stored():
        count[".in_ram." in name] += tensor.nbytes
    assert count[False] == sizes.fixed + 50 * sizes.near
    assert count[True] == (120 - 50) * sizes.far
