import random

import pytest
import torch
from torch import Tensor

from coderv2.engine.llm import LLM
from coderv2.engine.request import SamplingParams
from coderv2.errors import InvalidValue
from tests.engine.fakes import FakeModel, answer, fake_engine, run

PROMPT = [20, 21, 22]


def uneven(tokens: list[int]) -> Tensor:
    """Logits that differ from token to token, so that answers differ in likelihood."""
    return 2 * torch.randn(600, generator=torch.Generator().manual_seed(sum(tokens)))


def params(**more: int) -> SamplingParams:
    return SamplingParams(**{"seed": 3, "max_tokens": 6, "ignore_eos": True, "temperature": 1.5, **more})  # type: ignore[arg-type]


def test_the_likeliest_answers_per_token_are_given_best_first() -> None:
    engine = fake_engine(FakeModel(uneven))
    name = engine.submit(PROMPT, params(n=2, best_of=5))
    deltas = run(engine)
    everyone = engine.submit(PROMPT, params(n=5, logprobs=0))
    told = run(engine)
    means = {}
    for index in range(5):
        places = [p for d in told if (d.request_id, d.index) == (everyone, index) for p in d.logprobs or ()]
        means[index] = sum(place.logprob for place in places) / len(places)
    best = sorted(means, key=means.__getitem__, reverse=True)[:2]
    assert [d.index for d in deltas] == [0, 1]
    assert [answer(deltas, name, i) for i in range(2)] == [answer(told, everyone, i) for i in best]
    assert all(d.logprobs is None for d in deltas)


def test_log_probabilities_that_were_asked_for_come_with_the_best() -> None:
    (output,) = LLM.from_engine(fake_engine(FakeModel(uneven))).generate(
        prompt_token_ids=PROMPT, sampling_params=params(best_of=3, logprobs=1), use_tqdm=False
    )
    assert output.outputs[0].logprobs is not None
    assert len(output.outputs[0].logprobs) == len(output.outputs[0].token_ids) == 6


def test_an_abort_ends_the_contest() -> None:
    engine = fake_engine(FakeModel(uneven))
    name = engine.submit(PROMPT, params(n=2, best_of=4))
    engine.step()
    engine.abort(name)
    assert [(d.index, d.finish_reason) for d in run(engine)] == [(0, "abort"), (1, "abort")]
    assert not engine.has_work()
    assert not engine._open._contests


def test_best_of_counts_in_the_queue_and_is_at_least_n() -> None:
    with pytest.raises(InvalidValue, match=r"best_of \(2\) must be at least n \(3\)"):
        SamplingParams(n=3, best_of=2)
    with pytest.raises(InvalidValue, match="best_of must be at most 4"):
        fake_engine(max_waiting=4).submit(PROMPT, params(best_of=5))


def test_contests_beside_each_other_keep_apart() -> None:
    engine = fake_engine(FakeModel(uneven))
    luck = random.Random(0)
    names = [engine.submit([luck.randrange(10, 300)], params(n=1, best_of=k)) for k in (1, 2, 3)]
    told = run(engine)
    assert sorted(d.request_id for d in told if d.finish_reason) == sorted(names)
    assert all(len(answer(told, name)) == 6 for name in names)
