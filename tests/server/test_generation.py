"""Several prompts as one stream."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import pytest

from coderv2.engine.request import Delta, SamplingParams
from coderv2.errors import InvalidValue, QueueFull, ServiceError
from coderv2.server.backend import Backend
from coderv2.server.generation import Answer, Generation, Job
from tests.server.fakes import ScriptedEngine, said
from tests.tiny_tokenizer import tiny_tokenizer


def _work(engine: ScriptedEngine, prompts: Sequence[Sequence[int]], params: SamplingParams) -> Generation:
    return Generation(Job(prompts, params, Backend(engine, tiny_tokenizer())))


def test_choices_count_through_prompts_and_their_answers() -> None:
    engine = ScriptedEngine([*said("a"), *said("b", index=1)], [*said("c"), *said("d", "e", index=1)])
    work = _work(engine, [[1, 2], [3]], SamplingParams(n=2))
    answers = asyncio.run(work.answers())
    assert [answer.text for answer in answers] == ["a", "b", "c", "de"]
    assert all(answer.finish_reason == "stop" for answer in answers)
    usage = work.usage.openai()
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, 5, 8)
    assert usage["prompt_cache_hit_tokens"] + usage["prompt_cache_miss_tokens"] == usage["prompt_tokens"]


def test_cached_tokens_are_those_of_each_prompts_first_answer() -> None:
    def script(*cached: int) -> list[Delta]:
        return [
            Delta("r", i, "x", (1,), finish_reason="stop", num_cached_tokens=c) for i, c in enumerate(cached)
        ]

    work = _work(ScriptedEngine(script(2, 3), script(0, 1)), [[1, 2, 3], [4]], SamplingParams(n=2))
    asyncio.run(work.answers())
    usage = work.usage.openai()
    assert usage["prompt_tokens_details"] == {"cached_tokens": 2}
    assert (usage["prompt_cache_hit_tokens"], usage["prompt_cache_miss_tokens"]) == (2, 2)


def test_a_refused_prompt_starts_nothing() -> None:
    engine = ScriptedEngine(refuses=QueueFull("full"))
    with pytest.raises(QueueFull):
        _work(engine, [[1]], SamplingParams())


def test_a_failure_ends_all_and_closes_every_stream() -> None:
    endless = [Delta("r", 0, "x", (1,))] * 10_000
    engine = ScriptedEngine(endless, [Delta("r", 0, "y", (1,)), ServiceError("broken")])
    work = _work(engine, [[1], [2]], SamplingParams())
    with pytest.raises(ServiceError, match="broken"):
        asyncio.run(work.answers())
    assert engine.closed == 2


def test_closing_early_closes_every_stream_that_began() -> None:
    endless = [Delta("r", 0, "x", (1,))] * 10_000
    engine = ScriptedEngine(endless, endless, endless)
    work = _work(engine, [[1], [2], [3]], SamplingParams())

    async def take_three() -> list[str]:
        texts = []
        async with aclosing(work.deltas()) as deltas:
            async for delta in deltas:
                texts.append(delta.text)
                if len(texts) == 3:
                    break
        return texts

    assert asyncio.run(take_three()) == ["x"] * 3
    assert engine.closed == 3
    assert work.usage.completion_tokens == 3


def test_too_many_answers_are_refused() -> None:
    with pytest.raises(InvalidValue, match="make 132 answers, at most 128") as caught:
        _work(ScriptedEngine(), [[1]] * 33, SamplingParams(n=4))
    assert caught.value.param == "n"


def test_log_probabilities_are_collected_in_order() -> None:
    work = _work(ScriptedEngine(said("a", "b", logprobs=True)), [[1]], SamplingParams(logprobs=1))
    (answer,) = asyncio.run(work.answers())
    assert isinstance(answer, Answer)
    assert [place.token_id for place in answer.logprobs] == [65, 66]


def test_an_abandoned_one_ends_with_the_reason_and_closes_its_stream() -> None:
    engine = ScriptedEngine([Delta("r", 0, "x", (1,))] * 10_000)

    async def abandon() -> None:
        work = _work(engine, [[1]], SamplingParams())
        async with aclosing(work.deltas()) as deltas:
            async for _ in deltas:
                if work.clock.tokens == 3:
                    work.abandon(QueueFull("its place was taken"))

    with pytest.raises(QueueFull, match="taken"):
        asyncio.run(abandon())
    assert engine.closed == 1


def test_the_clock_knows_the_first_token_and_the_pauses_after() -> None:
    work = _work(ScriptedEngine(said("a", "b", "c")), [[1]], SamplingParams())
    asyncio.run(work.answers())
    assert work.clock.first is not None
    assert work.clock.first >= work.clock.began
    assert len(work.clock.gaps) == 2
    assert work.clock.tokens == 3
