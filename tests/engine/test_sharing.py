"""What requests share of each other's prompts, as the engine's callers see it."""

import random
from dataclasses import replace

import pytest
import torch

from coderv2.engine.engine import Engine, EngineSettings
from coderv2.engine.request import SamplingParams
from coderv2.errors import InvalidValue
from tests.engine.fakes import Clock, FakeModel, answer, continuation, fake_engine, greedy, run
from tests.tiny import tiny_config, tiny_model
from tests.tiny_tokenizer import tiny_tokenizer

PROMPT = random.Random(1).choices(range(10, 300), k=30)


def computed(model: FakeModel) -> int:
    """Tokens that have passed through the model."""
    return sum(map(sum, model.batches))


def test_a_repeated_prompt_is_computed_once_and_counted_as_cached() -> None:
    model = FakeModel()
    engine = fake_engine(model)
    first = run_one(engine)
    before = computed(model)
    again = run_one(engine)
    assert first[0] == again[0] == continuation(PROMPT, 5)
    assert (first[1], again[1]) == (0, 28)
    assert computed(model) - before == 2 + 4
    assert (engine.stats().prompt_tokens, engine.stats().cached_tokens) == (60, 28)
    assert engine.stats().pages_used == 0


def run_one(engine: Engine, ids: list[int] | None = None, tenant: str = "") -> tuple[list[int], int]:
    """Tokens of the answer, and how many of the prompt's were cached."""
    name = engine.submit(ids or PROMPT, greedy(5), tenant=tenant)
    deltas = run(engine)
    engine.check()
    return answer(deltas, name), deltas[-1].num_cached_tokens


def test_a_conversation_goes_on_from_its_own_answer() -> None:
    engine = fake_engine()
    told, _ = run_one(engine)
    longer = [*PROMPT, *told, 50, 51]
    # 34 tokens were in the cache: all but the last that was chosen. That is 8 full pages.
    assert run_one(engine, longer) == (continuation(longer, 5), 32)


def test_a_prompt_that_differs_in_its_first_token_shares_nothing() -> None:
    engine = fake_engine()
    run_one(engine)
    assert run_one(engine, [9, *PROMPT[1:]])[1] == 0


def test_tenants_do_not_share() -> None:
    engine = fake_engine()
    run_one(engine, tenant="one")
    assert run_one(engine, tenant="two")[1] == 0
    assert run_one(engine)[1] == 0
    assert run_one(engine, tenant="one")[1] == 28


def test_without_prefix_caching_only_the_answers_to_one_prompt_share() -> None:
    model = FakeModel()
    engine = fake_engine(model, prefix_caching=False)
    for _ in range(2):
        before = computed(model)
        name = engine.submit(PROMPT, greedy(1, n=3))
        deltas = run(engine)
        assert [answer(deltas, name, i) for i in range(3)] == [continuation(PROMPT, 1)] * 3
        assert [d.num_cached_tokens for d in deltas] == [0, 28, 28]
        assert computed(model) - before == 30 + 2 + 2


def test_n_answers_compute_the_prompt_once_and_do_not_write_into_each_other() -> None:
    model = FakeModel(lambda tokens: torch.zeros(600))
    engine = fake_engine(model)
    params = SamplingParams(n=4, seed=3, max_tokens=9, ignore_eos=True)
    name = engine.submit(PROMPT, params)
    deltas = run(engine)
    alone = [engine.submit(PROMPT, replace(params, n=1, seed=3 + i)) for i in range(4)]
    single = run(engine)
    assert [answer(deltas, name, i) for i in range(4)] == [answer(single, other) for other in alone]
    # The prompt, its last token again for three, and each token of the answers but the last.
    assert sum(map(sum, model.batches[:20])) >= 30 + 3 + 4 * 8
    assert computed(model) == (30 + 3 + 4 * 8) + (4 * 2 + 4 * 8)


def test_the_least_recently_used_prompt_is_forgotten_first() -> None:
    # 16 pages; each prompt with its answer fills 6.
    engine = fake_engine(cache_tokens=64, max_running=1, max_model_len=64)
    prompts = [random.Random(i).choices(range(10, 300), k=20) for i in range(4)]
    for which in (0, 1, 0, 2, 3):
        run_one(engine, prompts[which])
    assert run_one(engine, prompts[0])[1] == 16
    assert run_one(engine, prompts[1])[1] == 0


def test_a_deadline_ends_the_answer_with_what_there_is() -> None:
    clock = Clock()
    engine = fake_engine(clock=clock)
    name = engine.submit([20, 21], greedy(50), deadline=2.0)
    other = engine.submit([22], greedy(8))
    deltas = engine.step()
    clock.now += 2.0
    deltas += run(engine)
    assert answer(deltas, name) == continuation([20, 21], 1)
    assert [d.finish_reason for d in deltas if d.request_id == name][-1] == "length"
    assert answer(deltas, other) == continuation([22], 8)
    assert engine.stats().pages_used == 0


def test_a_deadline_also_ends_what_still_waits() -> None:
    clock = Clock()
    engine = fake_engine(clock=clock, max_running=1)
    engine.submit([20], greedy(4))
    waiting = engine.submit([21], greedy(4), deadline=1.0)
    deltas = engine.step()
    clock.now += 1.5
    deltas += run(engine)
    assert [(d.token_ids, d.finish_reason) for d in deltas if d.request_id == waiting] == [((), "length")]


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_a_deadline_that_has_passed_or_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidValue) as caught:
        fake_engine().submit([20], greedy(4), deadline=seconds)
    assert caught.value.param == "deadline"


@pytest.mark.parametrize("family", ["lite", "full"])
def test_shared_pages_give_a_real_model_the_answers_of_computed_ones(family: str) -> None:
    model = tiny_model(tiny_config(family))
    params = SamplingParams(n=2, seed=5, max_tokens=10, ignore_eos=True)

    def answers(prefix_caching: bool) -> list[list[int]]:
        settings = EngineSettings(
            cache_tokens=512, max_model_len=128, page_size=4, prefix_caching=prefix_caching
        )
        engine = Engine(model, tiny_tokenizer(), settings)
        told = []
        for ids in (PROMPT, PROMPT, [*PROMPT[:20], *PROMPT]):
            name = engine.submit(ids, params)
            deltas = run(engine)
            told += [answer(deltas, name, index) for index in range(2)]
        return told

    assert answers(True) == answers(False)
