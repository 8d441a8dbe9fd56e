import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from coderv2.engine.engine import Engine, EngineSettings
from coderv2.engine.request import SamplingParams
from coderv2.engine.settings import page_count
from coderv2.errors import BadCheckpoint, ContextTooLong, InvalidValue, QueueFull
from coderv2.model.batch import Batch
from coderv2.model.cache import bytes_per_token
from tests.engine.fakes import (
    FakeModel,
    answer,
    continuation,
    fake_engine,
    greedy,
    likeliest,
    one_peak,
    run,
    script,
    text,
)
from tests.tiny import tiny_config, tiny_model
from tests.tiny_tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def prompt(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(10, 300), k=length)


def test_one_request_runs_to_its_end() -> None:
    engine = fake_engine()
    name = engine.submit([20, 21], greedy(5))
    deltas = run(engine)
    assert answer(deltas, name) == continuation([20, 21], 5)
    assert [d.finish_reason for d in deltas] == [None] * 4 + ["length"]
    assert not engine.has_work()
    assert engine.step() == []


def test_many_requests_answer_as_if_alone_although_they_crowd_each_other_out() -> None:
    # 40 pages of 4 tokens for 30 requests of up to 60 tokens: most are preempted, many repeatedly.
    engine = fake_engine(cache_tokens=160, max_running=8, max_batch_tokens=32)
    prompts = [prompt(seed, 1 + 7 * seed % 40) for seed in range(30)]
    names = [engine.submit(ids, greedy(20)) for ids in prompts]
    deltas = run(engine)
    for name, ids in zip(names, prompts, strict=True):
        assert answer(deltas, name) == continuation(ids, 20)
    assert engine.stats().pages_used == 0


def test_a_request_that_needs_the_whole_cache_is_served_beside_others() -> None:
    engine = fake_engine(cache_tokens=64, max_running=4)
    assert engine.max_model_len == 64
    names = [engine.submit(prompt(seed, 30), greedy(34)) for seed in range(4)]
    deltas = run(engine)
    assert all(answer(deltas, name) == continuation(prompt(i, 30), 34) for i, name in enumerate(names))


def test_max_tokens_none_fills_the_context() -> None:
    engine = fake_engine(max_model_len=40)
    name = engine.submit(prompt(0, 10), greedy(None))
    deltas = run(engine)
    assert len(answer(deltas, name)) == 30
    assert deltas[-1].finish_reason == "length"


def test_the_models_own_end_ends_the_answer() -> None:
    words = TOKENIZER.encode("return values")
    engine = fake_engine(FakeModel(script(words, prompt_count=2)))
    name = engine.submit([20, 21], greedy(50))
    deltas = run(engine)
    assert text(deltas, name) == "return values"
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", None)


def test_a_stop_string_ends_the_answer() -> None:
    words = TOKENIZER.encode("left + middle + right")
    engine = fake_engine(FakeModel(script(words, prompt_count=2)))
    name = engine.submit([20, 21], greedy(50, stop=[" + mid"]))
    deltas = run(engine)
    assert text(deltas, name) == "left"
    assert deltas[-1].stop_reason == " + mid"


def test_n_answers_draw_with_seeds_of_their_own() -> None:
    engine = fake_engine(FakeModel(lambda tokens: torch.zeros(600)))
    together = engine.submit([20], SamplingParams(n=3, seed=40, max_tokens=12, ignore_eos=True))
    alone = engine.submit([20], SamplingParams(seed=42, max_tokens=12, ignore_eos=True))
    deltas = run(engine)
    answers = [answer(deltas, together, index) for index in range(3)]
    assert len({tuple(a) for a in answers}) == 3
    assert answers[2] == answer(deltas, alone)


def test_seeds_of_either_sign_differ() -> None:
    engine = fake_engine(FakeModel(lambda tokens: torch.zeros(600)))
    names = [engine.submit([20], SamplingParams(seed=s, ignore_eos=True)) for s in (-3, 3, -3)]
    deltas = run(engine)
    below, above, again = (answer(deltas, name) for name in names)
    assert below == again != above


def test_the_engines_seed_fixes_what_requests_without_one_draw() -> None:
    def draw(seed: int | None) -> list[int]:
        engine = fake_engine(FakeModel(lambda tokens: torch.zeros(600)), seed=seed)
        name = engine.submit([20], SamplingParams(ignore_eos=True))
        return answer(run(engine), name)

    assert draw(1) == draw(1) != draw(2)
    assert draw(None) != draw(None)


def test_preemption_does_not_change_what_a_seed_draws() -> None:
    def draws(**limits: Any) -> list[list[int]]:
        engine = fake_engine(FakeModel(lambda tokens: one_peak(tokens) / 2), **limits)
        params = [SamplingParams(seed=seed, max_tokens=30, ignore_eos=True) for seed in range(6)]
        names = [engine.submit(prompt(i, 20), p) for i, p in enumerate(params)]
        deltas = run(engine)
        return [answer(deltas, name) for name in names]

    assert draws(cache_tokens=64, max_batch_tokens=16) == draws(cache_tokens=512)


def test_an_abort_frees_the_pages_at_once_and_ends_the_stream() -> None:
    engine = fake_engine()
    name = engine.submit([20, 21], greedy(50, n=2))
    other = engine.submit([30], greedy(5))
    engine.step()
    engine.abort(name)
    assert engine.stats().pages_used == 1
    deltas = run(engine)
    assert [d.index for d in deltas if (d.request_id, d.finish_reason) == (name, "abort")] == [0, 1]
    assert not any(d.token_ids for d in deltas if d.request_id == name)
    assert len(answer(deltas, other)) == 4


def test_aborting_what_waits_or_has_ended_or_never_was_is_harmless() -> None:
    engine = fake_engine(max_running=1)
    first, second = engine.submit([20], greedy(2)), engine.submit([21], greedy(2))
    engine.step()
    engine.abort(second)
    engine.abort("nobody")
    run(engine)
    engine.abort(first)
    assert not engine.has_work()
    engine.check()


def test_the_queue_is_bounded_and_n_counts() -> None:
    engine = fake_engine(max_waiting=3)
    engine.submit([20], greedy(2, n=2))
    with pytest.raises(QueueFull):
        engine.submit([20], greedy(2, n=2))
    engine.submit([20], greedy(2))
    with pytest.raises(QueueFull, match="3 requests are waiting"):
        engine.submit([20], greedy(2))
    assert engine.stats().waiting == 3
    engine.step()
    engine.submit([20], greedy(2))


@pytest.mark.parametrize(("length", "max_tokens"), [(100, 29), (128, None), (500, 1)])
def test_what_can_never_fit_is_refused_with_the_numbers(length: int, max_tokens: int | None) -> None:
    message = rf"^This model's maximum context length is 128 tokens.*{length} in the prompt"
    with pytest.raises(ContextTooLong, match=message):
        fake_engine().submit(prompt(0, length), greedy(max_tokens))


def test_a_context_limited_by_the_cache_says_so() -> None:
    with pytest.raises(
        ContextTooLong, match=r"maximum context length is 64 tokens as it is run here \(its own is 128\)"
    ):
        fake_engine(cache_tokens=64).submit(prompt(0, 60), greedy(8))


@pytest.mark.parametrize(
    ("ids", "params", "param"),
    [
        ([], SamplingParams(), "prompt"),
        ([5, 600], SamplingParams(), "prompt"),
        ([-1], SamplingParams(), "prompt"),
        ([5], SamplingParams(logit_bias={600: 1}), "logit_bias"),
        ([5], SamplingParams(stop_token_ids=[5, 601]), "stop_token_ids"),
        ([5], SamplingParams(n=2000), "n"),
    ],
)
def test_what_makes_no_sense_for_this_model_is_refused(
    ids: list[int], params: SamplingParams, param: str
) -> None:
    with pytest.raises(InvalidValue) as caught:
        fake_engine().submit(ids, params)
    assert caught.value.param == param


def test_an_id_in_use_is_refused_and_free_again_afterwards() -> None:
    engine = fake_engine()
    engine.submit([20], greedy(2), request_id="mine")
    with pytest.raises(InvalidValue, match="mine"):
        engine.submit([20], greedy(2), request_id="mine")
    run(engine)
    engine.submit([20], greedy(2), request_id="mine")


def test_logits_that_are_not_finite_end_that_request_alone() -> None:
    def poisoned(tokens: list[int]) -> Tensor:
        return torch.full((600,), float("nan")) if tokens[0] == 66 and len(tokens) > 3 else one_peak(tokens)

    engine = fake_engine(FakeModel(poisoned))
    drawing = SamplingParams(max_tokens=8, ignore_eos=True)
    bad, good = engine.submit([66, 20], drawing), engine.submit([20, 21], greedy(8))
    deltas = run(engine)
    assert answer(deltas, good) == continuation([20, 21], 8)
    (last,) = [d for d in deltas if d.request_id == bad and d.finish_reason]
    assert last.finish_reason == "error"
    assert last.error is not None
    assert "not finite" in last.error
    assert engine.stats().pages_used == 0


def test_a_model_that_raises_ends_that_pass_and_the_engine_lives_on() -> None:
    def explosive(tokens: list[int]) -> Tensor:
        if tokens[0] == 66:
            raise RuntimeError("out of memory")
        return one_peak(tokens)

    engine = fake_engine(FakeModel(explosive))
    names = {engine.submit([66], greedy(4)), engine.submit([20], greedy(4))}
    deltas = run(engine)
    assert {d.request_id for d in deltas if d.finish_reason == "error"} == names
    assert all("out of memory" in (d.error or "") for d in deltas)
    later = engine.submit([20], greedy(4))
    assert answer(run(engine), later) == continuation([20], 4)
    engine.check()


def test_what_a_failed_request_leaves_in_the_cache_is_erased() -> None:
    class Poisonous(FakeModel):
        def __call__(self, batch: Batch, /) -> Tensor:
            logits_RW = super().__call__(batch)
            assert batch.cache is not None
            assert batch.slots_T is not None
            self.cache = batch.cache
            if bool((batch.token_ids_T == 66).any()):
                batch.cache.k_rope_LPSR.flatten(1, 2)[:, batch.slots_T] = float("nan")
                logits_RW[:] = float("nan")
            return logits_RW

    model = Poisonous()
    engine = fake_engine(model)
    engine.submit([*range(20, 40), 66], greedy(4))
    assert run(engine)[-1].finish_reason == "error"
    assert model.cache.k_rope_LPSR.isfinite().all()


def test_logprobs_come_with_each_token() -> None:
    engine = fake_engine()
    engine.submit([20], greedy(3, logprobs=2))
    for delta in run(engine):
        assert delta.logprobs is not None
        assert [p.token_id for p in delta.logprobs] == list(delta.token_ids)


def test_one_step_carries_a_token_of_each_answer_and_pieces_of_prompts() -> None:
    model = FakeModel()
    engine = fake_engine(model, max_batch_tokens=16)
    engine.submit([20, 21], greedy(4))
    engine.step()
    engine.submit(prompt(1, 20), greedy(4))
    engine.step()
    engine.step()
    assert model.batches == [[2], [1, 15], [1, 5]]


@pytest.mark.parametrize(
    ("limits", "param"),
    [
        ({"max_running": 0}, "max_running"),
        ({"page_size": 0}, "page_size"),
        ({"cache_tokens": 0}, "cache_tokens"),
        ({"max_running": 100, "max_batch_tokens": 50}, "max_batch_tokens"),
        ({"max_model_len": 129}, "max_model_len"),
        ({"max_model_len": 128, "cache_tokens": 100}, "max_model_len"),
        ({"cache_tokens": 1}, "max_model_len"),
    ],
)
def test_settings_that_cannot_be_are_refused(limits: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        fake_engine(**limits)
    assert caught.value.param == param


def test_the_default_cache_holds_every_running_context_where_memory_allows() -> None:
    engine = Engine(FakeModel(context=50), TOKENIZER, EngineSettings(max_running=3))
    assert engine.stats().pages_total == 3 * 4
    assert engine.max_model_len == 50


def test_the_default_cache_stays_within_memory() -> None:
    # 163,840 tokens of context for a million sequences would be some 70 TB.
    settings = EngineSettings(max_running=1_000_000, max_batch_tokens=1_000_000)
    config = tiny_config(max_position_embeddings=163_840)
    pages = page_count(config, settings, torch.float32, torch.device("cpu"))
    assert 0 < pages * settings.page_size * bytes_per_token(config, torch.float32) < 2**45


def test_a_tokenizer_larger_than_the_model_is_refused() -> None:
    model = FakeModel()
    model.config = tiny_config(vocab_size=TOKENIZER.vocab_size - 1)
    with pytest.raises(BadCheckpoint, match="do not belong together"):
        Engine(model, TOKENIZER)


@pytest.mark.parametrize("family", ["lite", "full"])
def test_batched_equals_alone_on_a_real_model(family: str) -> None:
    model = tiny_model(tiny_config(family))
    jobs = [(prompt(i, 1 + 11 * i % 50), params) for i, params in enumerate(_mixed_params())]

    def together(jobs: Sequence[tuple[list[int], SamplingParams]], **limits: Any) -> list[list[list[int]]]:
        normal = EngineSettings(cache_tokens=1024, max_batch_tokens=64, max_running=8, max_model_len=128)
        engine = Engine(model, TOKENIZER, replace(normal, **limits))
        names = [engine.submit(ids, params) for ids, params in jobs]
        deltas = run(engine)
        engine.check()
        return [
            [answer(deltas, name, index) for index in range(params.n)]
            for name, (_, params) in zip(names, jobs, strict=True)
        ]

    alone = [together([job])[0] for job in jobs]
    assert together(jobs) == alone
    # Short of pages, with small pieces: preempted, recomputed, chunked.
    assert together(jobs, cache_tokens=128, max_batch_tokens=16, max_running=5) == alone


def _mixed_params() -> list[SamplingParams]:
    kinds = [
        greedy(12),
        SamplingParams(seed=7, max_tokens=12),
        SamplingParams(seed=8, max_tokens=12, top_p=0.8, temperature=0.7, n=2),
        SamplingParams(seed=9, max_tokens=12, top_k=5, repetition_penalty=1.3),
        greedy(12, presence_penalty=0.5, min_tokens=4),
    ]
    return kinds * 2


def test_the_fake_model_sees_every_token_of_the_context() -> None:
    assert likeliest([1, 2, 3]) != likeliest([2, 1, 3])
