"""All layers in one call: the same bits as one operation after another."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from coderv2.kernels.cpu import kernels
from coderv2.kernels.latents import KINDS
from coderv2.kernels.ops import InvariantOps, Ops
from coderv2.model import fused
from coderv2.model.batch import Batch
from coderv2.model.cache import LatentCache
from coderv2.model.pack import pack_model
from coderv2.model.transformer import Transformer
from tests.tiny import tiny_config

pytestmark = pytest.mark.skipif(kernels is None, reason="the CPU kernels were not built")

SHAPES: dict[str, dict[str, Any]] = {
    "lite": {},
    "full": {
        "q_lora_rank": 24,
        "topk_method": "group_limited_greedy",
        "n_group": 4,
        "topk_group": 2,
        "n_routed_experts": 16,
        "routed_scaling_factor": 16.0,
    },
    "renormalised": {"norm_topk_prob": True},
}
shapes = pytest.mark.parametrize("shape", SHAPES)


def _packed(shape: str, format_name: str) -> Transformer:
    model = Transformer(tiny_config(**SHAPES[shape])).initialise(0.3, seed=1)
    router: Callable[[str], str] = lambda name: "f32" if name.endswith("gate") else format_name  # noqa: E731
    return pack_model(model, router)


def _steps(model: Transformer, dtype: torch.dtype, **how: Any) -> list[Tensor]:
    """Logits of two sequences' first chunks and of two steps after them."""
    cache = LatentCache(model.config, 8, 4, dtype)
    tables = [[5, 0, 3], [7, 2, 6]]
    news = [[[11, 12, 13, 14, 15], [21, 22]], [[16], [23]], [[17], [24, 25, 26]]]
    contexts, logits = [0, 0], []
    with torch.inference_mode():
        for tokens in news:
            batch = Batch.cached(cache, tokens, contexts, tables, all_logits=True, **how.get("batch", {}))
            logits.append(model(replace(batch, computed_by=how.get("computed_by"))))
            contexts = [c + len(new) for c, new in zip(contexts, tokens, strict=True)]
    return logits


@shapes
@pytest.mark.parametrize("format_name", ["f32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("dtype", KINDS)
def test_bits_are_those_of_one_operation_after_another(
    shape: str, format_name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, runs = _packed(shape, format_name), []
    run = fused.FusedLayers.run
    monkeypatch.setattr(fused.FusedLayers, "run", lambda *a: runs.append(1) or run(*a))  # type: ignore[func-returns-value]
    ours = _steps(model, dtype)
    assert len(runs) == 3
    for one, other in zip(ours, _steps(model, dtype, computed_by=Ops), strict=True):
        assert torch.equal(one, other)
    assert len(runs) == 3


@shapes
def test_deterministic_passes_have_the_same_bits_too(shape: str) -> None:
    model = _packed(shape, "int4")
    ours = _steps(model, torch.bfloat16, batch={"deterministic": True})
    for one, other in zip(ours, _steps(model, torch.bfloat16, computed_by=InvariantOps), strict=True):
        assert torch.equal(one, other)


def test_who_takes_notes_gets_one_operation_after_another() -> None:
    model = _packed("lite", "int8")
    cache = LatentCache(model.config, 2, 4)
    batch = Batch.cached(cache, [[5, 6]], [0], [[1]])
    log: list[Any] = []
    with torch.inference_mode():
        plain = model(batch)
        noted = model(replace(batch, router_log=log))
    assert len(log) == sum(not model.config.is_dense(i) for i in range(model.config.num_hidden_layers))
    assert torch.equal(plain, noted)


def test_what_is_not_a_number_stays_in_its_sequence() -> None:
    model = _packed("lite", "int4")
    cache = LatentCache(model.config, 4, 4)
    tokens, tables = [[5, 6], [7, 8]], [[1], [2]]
    with torch.inference_mode():
        model(Batch.cached(cache, tokens, [0, 0], tables))
        clean = model(Batch.cached(cache, [[9], [10]], [2, 2], tables))
        cache.latent_LPSC[:, 1] = float("nan")
        hurt = model(Batch.cached(cache, [[9], [10]], [2, 2], tables))
    assert hurt[0].isnan().all()
    assert torch.equal(hurt[1], clean[1])
