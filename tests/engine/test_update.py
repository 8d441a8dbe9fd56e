"""Weights exchanged under a running engine, and tokens scored between its steps."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from coderv2.engine.engine import Engine, EngineSettings
from coderv2.errors import BadCheckpoint, ContextTooLong, InvalidValue
from coderv2.model.batch import Batch
from coderv2.model.transformer import Transformer
from coderv2.model.weights import published_tensors, save
from tests.engine.fakes import answer, continuation, fake_engine, greedy, run
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


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ContextTooLong, match="129 tokens"):
        engine(model()).score([[5] * 129])
    with pytest.raises(ContextTooLong, match="0 tokens"):
        engine(model()).score([[]])
    with pytest.raises(InvalidValue, match="token 600"):
        engine(model()).score([[5, 600]])
