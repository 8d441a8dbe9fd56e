"""Our engine as a generator, and answers that are there already."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from coderv2.engine.request import SamplingParams
from coderv2.errors import BadData, ContextTooLong
from coderv2.evaluation import generate
from coderv2.evaluation.asking import (
    Ask,
    Chat,
    Choose,
    Complete,
    Decoding,
    Generator,
    Infill,
    Place,
    Problem,
    Reply,
)
from coderv2.text.chat import Message, encode_chat
from coderv2.text.fim import encode_fim
from tests.engine.fakes import FakeModel, continuation, fake_engine
from tests.evaluation.fakes import Sums
from tests.tiny import tiny_config, tiny_model

PLACE = Place("sums", Problem("sum/1", {"n": 1}))


def replies(generator: generate.EngineGenerator, *asks: Ask) -> list[Reply]:
    async def go() -> list[Reply]:
        try:
            return await asyncio.gather(*(generator.reply(ask, PLACE) for ask in asks))
        finally:
            await generator.close()

    return asyncio.run(go())


def test_the_engine_answers_chats_texts_and_holes() -> None:
    engine = fake_engine(FakeModel(context=512), cache_tokens=2048, max_running=8)
    tokenizer, decoding = engine.tokenizer, Decoding(6)
    prompts = [
        encode_chat(tokenizer, [Message("user", "hi")]),
        tokenizer.encode("def f(", bos=True),
        encode_fim(tokenizer, "a", "b"),
    ]
    asks = [Chat.of("hi", decoding), Complete("def f(", decoding), Infill("a", "b", decoding)]
    found = replies(generate.EngineGenerator(engine, "fake"), *asks)
    assert [reply.text for reply in found] == [tokenizer.decode(continuation(ids, 6)) for ids in prompts]
    assert {(reply.finish_reason, reply.tokens) for reply in found} == {("length", 6)}


def test_a_reply_is_cut_to_the_room_and_a_prompt_without_room_is_refused() -> None:
    generator = generate.EngineGenerator(fake_engine(), "fake")
    assert generator.context == 128

    async def go() -> Reply:
        try:
            long = Complete("word " * 40, Decoding(4000))
            reply = await generator.reply(long, PLACE)
            with pytest.raises(ContextTooLong):
                await generator.reply(Complete("word " * 500), PLACE)
            return reply
        finally:
            await generator.close()

    assert asyncio.run(go()).finish_reason == "length"


def test_options_are_weighed_as_the_engine_scores_them() -> None:
    model = tiny_model(tiny_config(vocab_size=600, max_position_embeddings=512, rope_scaling=None))
    engine = fake_engine(model, cache_tokens=2048, max_running=4)  # type: ignore[arg-type]
    tokenizer = engine.tokenizer
    context, options = "The answer is", (" yes", " no way", " 42")
    ids = [tokenizer.encode(context, bos=True) + tokenizer.encode(option) for option in options]
    scores = engine.score(ids)
    wanted = [sum(s[-len(tokenizer.encode(o)) :]) for s, o in zip(scores, options, strict=True)]
    (reply,) = replies(generate.EngineGenerator(engine, "tiny"), Choose(context, options))
    assert reply.logprobs == pytest.approx(wanted, rel=1e-5)
    assert reply.text == options[wanted.index(max(wanted))]


def test_context_and_option_are_tokens_as_if_encoded_together() -> None:
    tokenizer = fake_engine().tokenizer
    for option in (" A", " the cat", " 12.5", "\nx"):
        together = tokenizer.encode("Question: why?\nAnswer:" + option)
        assert tokenizer.encode("Question: why?\nAnswer:") + tokenizer.encode(option) == together


def test_random_replies_depend_on_the_sample_alone() -> None:
    warm = Decoding(8, temperature=1.0)

    def drawn(index: int, company: int) -> str:
        generator = generate.EngineGenerator(fake_engine(draft_tokens=0), "fake")

        async def go() -> str:
            try:
                places = [
                    Place("t", Problem("p", {}), index),
                    *(Place("t", Problem(f"{i}", {})) for i in range(company)),
                ]
                return (await asyncio.gather(*(generator.reply(Complete("ab", warm), at) for at in places)))[
                    0
                ].text
            finally:
                await generator.close()

        return asyncio.run(go())

    assert drawn(0, 0) == drawn(0, 3)
    assert drawn(0, 0) != drawn(1, 0)
    assert SamplingParams(seed=Place("t", Problem("p", {})).sample_seed).seed is not None


def answer(answers: generate.Answers, place: Place) -> str:
    return asyncio.run(answers.reply(Chat.of("?"), place)).text


def test_canonical_and_empty_answers() -> None:
    assert answer(generate.canonical({"sums": Sums()}, lambda name: "chat"), PLACE) == "2"
    assert answer(generate.empty(), PLACE) == ""


def test_a_file_of_answers_is_read_by_id_task_and_sample(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"task_id": "sum/1", "reply": "two"}\n{"task_id": "sum/1", "reply": "2"}\n'
        '{"task": "other", "task_id": "sum/1", "completion": "x"}\n'
    )
    answers = generate.from_file(path)
    assert answer(answers, PLACE) == "two"
    assert answer(answers, Place("sums", PLACE.problem, 1)) == "2"
    assert answer(answers, Place("other", PLACE.problem)) == "x"
    with pytest.raises(BadData, match="2 replies to sum/1, too few for sample 3"):
        answer(answers, Place("sums", PLACE.problem, 2))
    with pytest.raises(BadData, match="no reply to sum/9"):
        answer(answers, Place("sums", Problem("sum/9", {})))


def identity(generator: Generator) -> Mapping[str, str]:
    return asyncio.run(generator.identity())


def test_two_files_of_one_name_are_two_models(tmp_path: Path) -> None:
    """Other replies under the same name gave the old figures."""
    path, found = tmp_path / "a.jsonl", []
    for reply in ("x", "y", "x"):
        path.write_text(f'{{"task_id": "a", "reply": "{reply}"}}\n')
        found.append(identity(generate.from_file(path)))
    assert {one["model"] for one in found} == {"a.jsonl"}
    assert found[0] == found[2] != found[1]


def test_two_checkpoints_of_one_name_and_size_are_two_models(tmp_path: Path) -> None:
    """Trained further under the same name, a model's samples went on from the old one's."""
    (tmp_path / "config.json").write_text("{}")
    engine, found = fake_engine(), []
    for middle in (b"\1", b"\2", b"\1"):
        (tmp_path / "model.safetensors").write_bytes(bytes(150_000) + middle * 150_000)
        (tmp_path / "expert_usage.json").write_text(str(len(found)))  # grows while the model is used
        found.append(identity(generate.EngineGenerator(engine, "m", tmp_path)))
    assert found[0] == found[2] != found[1]


def test_a_line_without_a_reply_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"task_id": "a", "reply": "x"}\n{"task_id": "a"}\n')
    with pytest.raises(BadData, match=r"a\.jsonl:2"):
        generate.from_file(path)
