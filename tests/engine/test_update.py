"""Weights exchanged under a running engine, and tokens scored between its steps."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from coderv2.engine.engine import Engine, EngineSettings
from coderv2.errors import BadCheckpoint, ContextTooLong, InvalidValue, ServiceError, Unsupported
from coderv2.kernels import cpu
from coderv2.kernels.scaled import Kind, Scaled, restore
from coderv2.model.batch import Batch
from coderv2.model.loading import open_model
from coderv2.model.pack import pack_model
from coderv2.model.published import published_tensors
from coderv2.model.scale import place_scaled
from coderv2.model.transformer import Transformer
from coderv2.model.weights import save, take_values
from tests.engine.fakes import (
    VOCABULARY,
    FakeModel,
    answer,
    continuation,
    fake_engine,
    greedy,
    one_peak,
    run,
)
from tests.tiny import tiny_config, tiny_model
from tests.tiny_tokenizer import tiny_tokenizer

PROMPT = random.Random(3).choices(range(10, 300), k=25)


def model(family: str = "lite", seed: int = 0) -> Transformer:
    return tiny_model(tiny_config(family), seed).requires_grad_(False)


def engine(under: Transformer, **limits: Any) -> Engine:
    limits = {"cache_tokens": 512, "max_model_len": 128, "page_size": 4} | limits
    return Engine(under, tiny_tokenizer(), EngineSettings(**limits))


def answered(by: Engine) -> list[int]:
    name = by.submit(PROMPT, greedy(12, ignore_eos=True))
    return answer(run(by), name)


@pytest.mark.parametrize("family", ["lite", "full"])
@pytest.mark.parametrize("by_folder", [True, False])
def test_after_an_update_answers_are_the_new_models(family: str, by_folder: bool, tmp_path: Path) -> None:
    old, new = engine(model(family)), model(family, seed=1)
    before = answered(old)
    save(new, tmp_path)
    old.update_weights(tmp_path if by_folder else dict(published_tensors(new)))
    assert answered(old) == answered(engine(new)) != before
    old.check()


def test_an_open_request_goes_on_under_the_new_weights() -> None:
    new = model(seed=1)
    updated = engine(model())
    name = updated.submit(PROMPT, greedy(12, ignore_eos=True))
    told = [answer(updated.step(), name)[0] for _ in range(4)]
    updated.update_weights(dict(published_tensors(new)))
    updated.check()
    fresh = engine(new)
    other = fresh.submit([*PROMPT, *told], greedy(8, ignore_eos=True))
    assert answer(run(updated), name) == answer(run(fresh), other)


def test_some_tensors_may_be_exchanged_alone() -> None:
    other = dict(published_tensors(model(seed=1)))
    updated = model()
    engine(updated).update_weights({"model.norm.weight": other["model.norm.weight"]})
    parts = dict(published_tensors(updated))
    assert torch.equal(parts["model.norm.weight"], other["model.norm.weight"])
    assert torch.equal(parts["lm_head.weight"], dict(published_tensors(model()))["lm_head.weight"])


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("model.nrom.weight", torch.ones(64), "nrom.weight is not a tensor"),
        ("model.norm.weight", torch.ones(65), r"\[65\], the model's is \[64\]"),
        ("model.norm.weight", torch.full((64,), float("nan")), "NaN"),
    ],
)
def test_an_update_that_does_not_fit_changes_nothing(name: str, tensor: torch.Tensor, message: str) -> None:
    updated = engine(model())
    before = answered(updated)
    other = dict(published_tensors(model(seed=1)))
    with pytest.raises(BadCheckpoint, match=message):
        updated.update_weights({"lm_head.weight": other["lm_head.weight"], name: tensor})
    assert answered(updated) == before


def test_a_folder_of_another_config_is_refused_by_the_fields_name(tmp_path: Path) -> None:
    save(tiny_model(tiny_config(rope_theta=5000)), tmp_path)
    with pytest.raises(BadCheckpoint, match="rope_theta is 5000, the running model's is 10000"):
        engine(model()).update_weights(tmp_path)


@pytest.mark.parametrize("family", ["lite", "full"])
def test_scores_are_the_models_own_log_probabilities(family: str) -> None:
    under = model(family)
    sequences = [random.Random(i).choices(range(10, 300), k=k) for i, k in enumerate((1, 2, 40, 128))]
    # More sequences than the queue holds, and pieces smaller than the longest.
    scores = engine(under, max_waiting=2, max_batch_tokens=32, max_running=4).score(sequences)
    for ids, found in zip(sequences, scores, strict=True):
        logprobs_TW = under(Batch.packed([ids])).log_softmax(-1)
        expected = logprobs_TW[range(len(ids) - 1), ids[1:]]
        torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-4, atol=1e-4)


def test_scoring_beside_open_requests_loses_none_of_their_tokens() -> None:
    busy = fake_engine()
    name = busy.submit([20, 21], greedy(6))
    told = busy.step()
    assert busy.score([[1, 2, 3]])[0] == pytest.approx([0.0] * 2, abs=10)
    assert answer(told + run(busy), name) == continuation([20, 21], 6)


def test_scoring_that_fails_leaves_nothing_behind_and_loses_no_others_tokens() -> None:
    def logits(tokens: list[int]) -> torch.Tensor:
        return torch.full((VOCABULARY,), float("nan")) if 299 in tokens else one_peak(tokens)

    busy = fake_engine(FakeModel(logits), max_batch_tokens=16)
    name = busy.submit([20, 21], greedy(12))
    told = busy.step()
    with pytest.raises(ServiceError, match="not finite"):
        busy.score([list(range(10, 60)), [5, 299, 5], list(range(60, 120))])
    told += run(busy)
    assert answer(told, name) == continuation([20, 21], 12)
    assert {delta.request_id for delta in told} == {name}
    busy.check()
    assert busy.stats().pages_used == 0


@pytest.mark.skipif(cpu.kernels is None, reason="the CPU kernels are not built")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["lite", "full"])
def test_packed_models_are_updated_in_place(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    for seed in (0, 1):
        save(model(family, seed).to(dtype), tmp_path / str(seed))
    old, new = (open_model(tmp_path / str(seed), dtype=dtype) for seed in (0, 1))
    assert old.packed
    updated = engine(old)
    before = answered(updated)
    updated.update_weights(tmp_path / "1")
    assert answered(updated) == answered(engine(new)) != before
    for (name, mine), (other_name, other) in zip(old.stored(), new.stored(), strict=True):
        assert name == other_name
        assert torch.equal(mine, other), name


@pytest.mark.skipif(cpu.kernels is None, reason="the CPU kernels are not built")
def test_an_update_leaves_a_packed_models_other_weights_in_the_format_they_have(tmp_path: Path) -> None:
    mixed = pack_model(model(), lambda name: "f32" if name.endswith("gate") else "bf16")
    before = {name: tensor.clone() for name, tensor in mixed.stored()}
    engine(mixed).update_weights({"model.norm.weight": torch.full((64,), 1.0009765)})
    after = dict(mixed.stored())
    assert after.keys() == before.keys()
    assert [name for name in after if not torch.equal(after[name], before[name])] == ["norm"]
    assert after["norm"][0] == pytest.approx(1.0009765, abs=1e-7)


@pytest.mark.skipif(cpu.kernels is None, reason="the CPU kernels are not built")
def _rounded(seed: int, kind: Kind) -> Transformer:
    sizes = {"moe_intermediate_size": 64, "intermediate_size": 128}
    model = tiny_model(tiny_config("lite", num_hidden_layers=2, **sizes), seed=seed)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            place_scaled(module, name, parameter.detach(), kind)
    return model


def _scaled(model: Transformer) -> list[Scaled]:
    return [
        value for module in model.modules() for value in vars(module).values() if isinstance(value, Scaled)
    ]


@pytest.mark.parametrize("kind", ["fp8", "int4"])
def test_rounded_weights_change_where_they_lie(kind: Kind) -> None:
    """Recorded steps know addresses, not names."""
    old, new = (_rounded(seed, kind) for seed in (0, 1))
    before = [scaled.codes.data_ptr() for scaled in _scaled(old)]
    take_values(old, new)
    assert before == [scaled.codes.data_ptr() for scaled in _scaled(old)] != []
    for mine, theirs in zip(_scaled(old), _scaled(new), strict=True):
        assert torch.equal(restore(mine), restore(theirs))


def test_quantised_weights_are_not_updated_and_serve_on() -> None:
    served = engine(pack_model(model(), lambda name: "int8"))
    before = answered(served)
    with pytest.raises(Unsupported, match="int8 cannot be changed in place"):
        served.update_weights(dict(published_tensors(model(seed=1))))
    assert answered(served) == before


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ContextTooLong, match="129 tokens"):
        engine(model()).score([[5] * 129])
    with pytest.raises(ContextTooLong, match="0 tokens"):
        engine(model()).score([[]])
    with pytest.raises(InvalidValue, match="token 600"):
        engine(model()).score([[5, 600]])
