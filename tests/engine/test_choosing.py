"""Drafts in the engine: the same answers in fewer steps."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from coderv2.engine.engine import Engine, EngineSettings
from coderv2.engine.grammar import StructuredOutputsParams
from coderv2.engine.request import Delta, SamplingParams
from coderv2.errors import InvalidValue
from coderv2.model.batch import Batch
from tests.engine.fakes import (
    FakeModel,
    answer,
    continuation,
    fake_engine,
    greedy,
    one_peak,
    run,
    script,
    text,
)
from tests.tiny import tiny_config, tiny_model
from tests.tiny_tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def edited(tokens: Sequence[int], seed: int, edits: int = 3) -> list[int]:
    """`tokens` with a few places replaced, inserted or deleted."""
    luck, changed = Random(seed), list(tokens)
    for _ in range(edits):
        place = luck.randrange(len(changed))
        changed[place : place + luck.randrange(3)] = luck.choices(range(10, 300), k=luck.randrange(3))
    return changed


def complete(engine: Engine, prompt: Sequence[int], params: SamplingParams) -> tuple[list[Delta], int]:
    """The deltas of one request alone, and the steps they took."""
    engine.submit(prompt, params, request_id="r")
    deltas: list[Delta] = []
    steps = 0
    while engine.has_work():
        deltas += engine.step()
        engine.check()
        steps += 1
    return deltas, steps


def test_an_answer_that_was_predicted_takes_few_steps() -> None:
    foretold = continuation([20, 21], 60)
    deltas, steps = complete(fake_engine(), [20, 21], greedy(60, prediction=foretold))
    assert answer(deltas, "r") == foretold
    assert steps <= 8
    assert sum(d.accepted_draft_tokens for d in deltas) == 60 - steps
    assert sum(d.rejected_draft_tokens for d in deltas) == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_prediction_that_is_partly_wrong_changes_nothing_but_the_steps(seed: int) -> None:
    foretold = continuation([20, 21], 80)
    deltas, steps = complete(fake_engine(), [20, 21], greedy(80, prediction=edited(foretold, seed)))
    assert answer(deltas, "r") == foretold
    assert steps < 50


def test_a_prediction_that_is_always_wrong_is_given_up() -> None:
    foretold = continuation([20, 21], 100)
    wrong = [t for a, b in pairwise(foretold) for t in (a, b, 599)]
    deltas, _ = complete(fake_engine(), [20, 21], greedy(100, prediction=wrong))
    late = deltas[60:]
    assert answer(deltas, "r") == foretold
    assert sum(d.rejected_draft_tokens for d in late) == 0


def test_of_a_prediction_no_more_is_read_than_a_context_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, read = fake_engine(), 0
    encode = engine.tokenizer.encode

    def noted(text: str) -> list[int]:
        nonlocal read
        read += len(text)
        return encode(text)

    monkeypatch.setattr(engine.tokenizer, "encode", noted)
    ready = engine.ready(greedy(prediction="return values\n" * 100_000))
    assert ready.prediction == encode("return values\n" * 200)[: engine.max_model_len]
    assert read < 10_000
    assert engine.ready(ready) == ready


@pytest.mark.parametrize("wrong", [[1.5, 2], 5, pytest.param([10**400], id="huge"), [600], [-1], ["a"]])
def test_a_prediction_that_is_no_tokens_is_refused_before_anything_looks_at_it(wrong: Any) -> None:
    with pytest.raises(InvalidValue, match="prediction"):
        fake_engine().submit([20], greedy(prediction=wrong))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_a_seed_draws_the_same_with_and_without_drafts(temperature: float) -> None:
    def draw(**more: Any) -> list[int]:
        params = SamplingParams(
            temperature=temperature, seed=5, max_tokens=60, ignore_eos=True, top_p=0.95, **more
        )
        return answer(complete(fake_engine(FakeModel(repetitive)), [20, 21], params)[0], "r")

    plain = draw(draft_tokens=0)
    assert draw(prediction=plain) == plain
    assert draw(prediction=edited(plain, 1)) == plain
    assert draw() == plain


def repetitive(tokens: list[int]) -> Tensor:
    """A model that draws among few tokens, so that guesses are often right."""
    logits_W = torch.full((600,), -20.0)
    logits_W[10:14] = torch.tensor([3.0, 2.0, 1.0, 0.0]).roll(tokens[-1] % 4)
    return logits_W


def test_above_temperature_0_drafts_leave_the_distribution_as_it_is() -> None:
    # Three tokens each: what the second and third are is drawn after drafted tokens, right or wrong.
    chances = torch.tensor([0.6, 0.3, 0.1])
    logits_W = torch.full((600,), -50.0)
    logits_W[10:13] = chances.log()
    engine = fake_engine(FakeModel(lambda tokens: logits_W), max_running=50, max_waiting=4000)
    count = 3000
    params = SamplingParams(max_tokens=3, ignore_eos=True, prediction=[10, 11, 10, 10], n=count, seed=0)
    engine.submit([20], params, request_id="r")
    deltas = run(engine)
    assert sum(d.accepted_draft_tokens for d in deltas) > count / 4
    assert sum(d.rejected_draft_tokens for d in deltas) > count / 4
    drawn: dict[int, list[int]] = {index: [] for index in range(count)}
    for delta in deltas:
        drawn[delta.index] += delta.token_ids
    for place in range(3):
        counts = Counter(tokens[place] for tokens in drawn.values())
        for token, chance in enumerate(chances.tolist(), 10):
            spread = 4 * math.sqrt(chance * (1 - chance) / count)
            assert counts[token] / count == pytest.approx(chance, abs=spread)


def test_a_stop_string_within_a_draft_ends_the_answer_there() -> None:
    words = TOKENIZER.encode("left + middle + right")
    engine = fake_engine(FakeModel(script(words, prompt_count=2)))
    deltas, _ = complete(engine, [20, 21], greedy(50, stop=[" + mid"], prediction=words))
    assert text(deltas, "r") == "left"
    assert deltas[-1].stop_reason == " + mid"
    assert engine.stats().pages_used == 0


def test_the_models_own_end_after_a_draft_ends_the_answer() -> None:
    words = TOKENIZER.encode("return values")
    engine = fake_engine(FakeModel(script(words, prompt_count=2)))
    deltas, _ = complete(engine, [20, 21], greedy(50, prediction=[*words, 30, 31]))
    assert text(deltas, "r") == "return values"
    assert answer(deltas, "r") == [*words, TOKENIZER.eos_id]


def test_penalties_and_min_tokens_count_drafted_tokens_as_they_are_taken() -> None:
    def tokens(**more: Any) -> list[int]:
        params = greedy(30, frequency_penalty=1.5, repetition_penalty=1.2, min_tokens=20, logprobs=1, **more)
        deltas, _ = complete(fake_engine(FakeModel(repetitive)), [20, 21], params)
        placed = [p.token_id for d in deltas for p in d.logprobs or ()]
        assert placed == answer(deltas, "r")
        return placed

    plain = tokens(draft_tokens=0)
    assert tokens(prediction=plain) == tokens(prediction=edited(plain, 3)) == plain


def test_logits_that_are_not_finite_after_a_draft_that_was_right_end_that_request_alone() -> None:
    foretold = continuation([20, 21], 30)

    def poisoned(tokens: list[int]) -> Tensor:
        bad = tokens[:2] == [20, 21] and len(tokens) > 12
        return torch.full((600,), float("nan")) if bad else one_peak(tokens)

    engine = fake_engine(FakeModel(poisoned))
    engine.submit([20, 21], greedy(30, prediction=foretold), request_id="bad")
    engine.submit([30, 31], greedy(30), request_id="good")
    deltas = run(engine)
    assert answer(deltas, "bad") == foretold[:11]
    assert [d.finish_reason for d in deltas if d.request_id == "bad"][-1] == "error"
    assert answer(deltas, "good") == continuation([30, 31], 30)


def test_logits_that_are_not_finite_after_a_draft_that_was_wrong_do_not_matter() -> None:
    foretold = continuation([20, 21], 30)

    def poisoned(tokens: list[int]) -> Tensor:
        return torch.full((600,), float("nan")) if 599 in tokens else one_peak(tokens)

    prediction = [*foretold[:10], 599, *foretold[10:]]
    deltas, _ = complete(fake_engine(FakeModel(poisoned)), [20, 21], greedy(30, prediction=prediction))
    assert answer(deltas, "r") == foretold


def test_an_answer_that_repeats_its_prompt_is_guessed_without_a_prediction() -> None:
    words = Random(0).choices(range(10, 300), k=50)
    engine = fake_engine(FakeModel(script(words, prompt_count=50)))
    deltas, steps = complete(engine, words, greedy(50, ignore_eos=True))
    assert answer(deltas, "r") == words
    assert steps < 25
    assert engine.stats().accepted_tokens == 50 - steps
    assert engine.stats().draft_tokens >= engine.stats().accepted_tokens


def test_drafts_and_prompts_share_a_step() -> None:
    foretold = continuation([20, 21], 40)
    engine = fake_engine(max_batch_tokens=16, draft_tokens=8)
    engine.submit([20, 21], greedy(40, prediction=foretold), request_id="a")
    engine.step()
    long = Random(3).choices(range(10, 300), k=60)
    engine.submit(long, greedy(5), request_id="b")
    deltas = run(engine)
    assert answer(deltas, "b") == continuation(long, 5)
    assert max(sum(sizes) for sizes in engine._runner._model.batches) <= 16  # type: ignore[attr-defined]


@given(data=st.data())
@hypothesis_settings(max_examples=40, deadline=None)
def test_crowded_requests_with_any_predictions_answer_as_if_alone(data: st.DataObject) -> None:
    engine = fake_engine(cache_tokens=160, max_running=6, max_batch_tokens=32)
    prompts, names = [], []
    for seed in range(8):
        prompt = Random(seed).choices(range(10, 300), k=data.draw(st.integers(1, 40)))
        foretold = edited(continuation(prompt, 30), seed, data.draw(st.integers(0, 6)))
        prompts.append(prompt)
        names.append(engine.submit(prompt, greedy(30, prediction=foretold)))
    deltas: list[Delta] = []
    while engine.has_work():
        deltas += engine.step()
        engine.check()
    assert [answer(deltas, name) for name in names] == [continuation(prompt, 30) for prompt in prompts]


@pytest.mark.parametrize("family", ["lite", "full"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_real_model_answers_the_same_with_and_without_drafts(family: str, temperature: float) -> None:
    model = tiny_model(tiny_config(family))
    # A draw may fall within a rounding of the border between two tokens: there only equal bits give equal tokens.
    settings = EngineSettings(cache_tokens=512, max_model_len=256, deterministic=temperature > 0)

    def tokens(**more: Any) -> list[int]:
        engine = Engine(model, TOKENIZER, settings)
        params = SamplingParams(temperature=temperature, seed=1, max_tokens=80, ignore_eos=True, **more)
        return answer(complete(engine, list(range(20, 60)), params)[0], "r")

    plain = tokens(draft_tokens=0)
    assert tokens(prediction=plain) == tokens(prediction=edited(plain, 1)) == tokens() == plain


def test_a_prediction_with_tokens_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(InvalidValue) as caught:
        fake_engine().submit([5], greedy(prediction=[5, 600]))
    assert caught.value.param == "prediction"


def test_a_prediction_may_be_text() -> None:
    words = TOKENIZER.encode("def push(self, item):")
    engine = fake_engine(FakeModel(script(words, prompt_count=2)))
    _, steps = complete(engine, [20, 21], greedy(50, prediction="def push(self, item):"))
    assert steps <= 3


@pytest.mark.parametrize("limits", [{}, {"max_batch_tokens": 8}, {"cache_tokens": 32, "max_batch_tokens": 8}])
@pytest.mark.parametrize("family", ["lite", "full"])
def test_prompt_logprobs_are_those_of_the_whole_text_however_it_is_cut(
    family: str, limits: dict[str, int]
) -> None:
    model = tiny_model(tiny_config(family))
    prompt = Random(0).choices(range(10, 300), k=25)
    normal = {"cache_tokens": 64, "max_batch_tokens": 64, "max_running": 4, "page_size": 4}
    engine = Engine(model, TOKENIZER, EngineSettings(**(normal | limits)))
    engine.submit(prompt, greedy(2), request_id="before")  # so that the prompt is cached
    run(engine)
    params = SamplingParams(n=2, seed=1, max_tokens=3, prompt_logprobs=2, ignore_eos=True)
    engine.submit(prompt, params, request_id="r")
    deltas = run(engine)
    (told,) = [d.prompt_logprobs for d in deltas if d.prompt_logprobs is not None]
    with torch.no_grad():
        expected_TW = model(Batch.packed([prompt])).log_softmax(-1)
    assert [p.token_id for p in told] == prompt[1:]
    for place, logprob in enumerate(told):
        assert logprob.logprob == pytest.approx(float(expected_TW[place, prompt[place + 1]]), abs=1e-4)
        assert [value for _, value in logprob.top] == pytest.approx(
            expected_TW[place].topk(2).values.tolist(), abs=1e-4
        )


def test_the_prompt_of_one_token_has_no_logprobs_but_says_so() -> None:
    deltas, _ = complete(fake_engine(), [20], greedy(2, prompt_logprobs=1))
    assert deltas[0].prompt_logprobs == ()
    assert deltas[1].prompt_logprobs is None


def test_logits_of_a_prompt_that_are_not_finite_end_the_request_whose_logprobs_they_are() -> None:
    def poisoned(tokens: list[int]) -> Tensor:
        return torch.full((600,), float("nan")) if len(tokens) == 2 else one_peak(tokens)

    engine = fake_engine(FakeModel(poisoned))
    deltas, _ = complete(engine, [20, 21, 22, 23], greedy(2, prompt_logprobs=1))
    assert [d.finish_reason for d in deltas] == ["error"]
    assert answer(complete(engine, [20, 21, 22, 23], greedy(2))[0], "r") == continuation([20, 21, 22, 23], 2)


@pytest.mark.parametrize("family", ["lite", "full"])
def test_in_deterministic_mode_drafts_change_no_bit_of_a_logprob(family: str) -> None:
    model = tiny_model(tiny_config(family))
    settings = EngineSettings(cache_tokens=512, max_model_len=256, deterministic=True)

    def told(**more: Any) -> list[tuple[int, float]]:
        params = SamplingParams(temperature=0.8, seed=1, max_tokens=40, ignore_eos=True, logprobs=2, **more)
        deltas, _ = complete(Engine(model, TOKENIZER, settings), list(range(20, 60)), params)
        return [(p.token_id, p.logprob) for d in deltas for p in d.logprobs or ()]

    plain = told(draft_tokens=0)
    tokens = [token for token, _ in plain]
    assert told(prediction=tokens) == told(prediction=edited(tokens, 2)) == told() == plain


@pytest.mark.parametrize(
    "guess",
    [
        {"prediction": "values + 1"},
        {"structured_outputs": StructuredOutputsParams(choice=["a long sentence that nobody can change"])},
    ],
)
def test_log_probabilities_of_a_prompt_are_not_those_of_a_draft_or_a_neighbour(guess: dict[str, Any]) -> None:
    def read(engine: Engine, **more: Any) -> list[Delta]:
        engine.submit([10, 11, 10, 12], greedy(6, prompt_logprobs=0, **more), request_id="r")
        return run(engine)

    def of_the_prompt(deltas: list[Delta]) -> Any:
        return next(d.prompt_logprobs for d in deltas if d.request_id == "r")

    plain = read(fake_engine(FakeModel(repetitive)))
    engine = fake_engine(FakeModel(repetitive))
    for first in (30, 31):
        engine.submit([first, 13, 12, 11, 10], greedy(6, prompt_logprobs=0), request_id=f"beside {first}")
    deltas = read(engine, **guess)
    assert all(delta.error is None for delta in deltas)
    assert of_the_prompt(deltas) == of_the_prompt(plain)
