import json
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from coderv2.engine.grammar import Grammars, StructuredOutputsParams
from coderv2.engine.request import SamplingParams
from coderv2.errors import InvalidValue
from tests.engine.fakes import (
    VOCABULARY,
    FakeModel,
    answer,
    continuation,
    fake_engine,
    greedy,
    likeliest,
    run,
    script,
    text,
)
from tests.tiny_tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def noise(tokens: list[int]) -> Tensor:
    """Logits that differ after every text, the end of the answer among the likelier tokens."""
    generator = torch.Generator().manual_seed(likeliest(tokens))
    logits_W = torch.randn(VOCABULARY, generator=generator)
    # Short answers: quotes, braces and the end are preferred wherever they are allowed.
    for token in (*TOKENIZER.encode('"}'), TOKENIZER.eos_id):
        logits_W[token] += 1.5
    return logits_W


def written(structured: StructuredOutputsParams, seed: int = 0, **params: Any) -> str:
    """The answer that noise under a grammar gives."""
    engine = fake_engine(FakeModel(noise, context=512), cache_tokens=1024)
    asked = SamplingParams(
        seed=seed, max_tokens=300, structured_outputs=structured, temperature=params.pop("temperature", 1.0),
        **params,
    )  # fmt: skip
    name = engine.submit([20, 21], asked)
    deltas = run(engine)
    assert deltas[-1].finish_reason == "stop"
    engine.check()
    return text(deltas, name)


@pytest.mark.parametrize("seed", range(6))
def test_noise_under_a_schema_is_json_that_the_schema_describes(seed: int) -> None:
    value = json.loads(written(StructuredOutputsParams(json=PERSON), seed))
    assert value.keys() == {"name", "age"}
    assert isinstance(value["name"], str)
    assert len(value["name"]) <= 8
    assert isinstance(value["age"], int)


def test_a_schema_may_be_text() -> None:
    assert json.loads(written(StructuredOutputsParams(json=json.dumps({"enum": [[1, 2]]})))) == [1, 2]


def test_json_object_gives_an_object() -> None:
    assert isinstance(json.loads(written(StructuredOutputsParams(json_object=True), temperature=0.2)), dict)


@pytest.mark.parametrize("seed", range(4))
def test_a_regex_matches_the_whole_answer(seed: int) -> None:
    assert re.fullmatch(
        r"[a-c]{2,5}-\d{3}", written(StructuredOutputsParams(regex=r"[a-c]{2,5}-\d{3}"), seed)
    )


def test_a_choice_is_one_of_those_given() -> None:
    names = ["red", "green", 'a "quoted" one', "café 🚀"]
    seen = {written(StructuredOutputsParams(choice=names), seed, temperature=3.0) for seed in range(20)}
    assert seen <= set(names)
    assert len(seen) > 1


def test_a_choice_may_be_of_thousands_and_one_text_the_start_of_another() -> None:
    names = [f"{name}{number}" for name in ("red", "reddish") for number in range(5000)]
    few = {written(StructuredOutputsParams(choice=["red", "reddish"]), s, temperature=3.0) for s in range(20)}
    assert few == {"red", "reddish"}
    assert {written(StructuredOutputsParams(choice=names), s, temperature=3.0) for s in range(3)} <= set(
        names
    )


def test_a_lark_grammar_is_followed() -> None:
    lark = 'start: item ("+" item)*\nitem: /[0-9]{1,2}/'
    assert re.fullmatch(r"\d{1,2}(\+\d{1,2})*", written(StructuredOutputsParams(grammar=lark)))


def test_a_complete_answer_ends_without_another_step() -> None:
    engine = fake_engine(FakeModel(noise))
    name = engine.submit(
        [20], greedy(50, ignore_eos=True, structured_outputs=StructuredOutputsParams(choice=["ab"]))
    )
    deltas = run(engine)
    assert text(deltas, name) == "ab"
    assert TOKENIZER.eos_id not in answer(deltas, name)
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", None)


def test_a_constrained_request_leaves_its_neighbours_alone_and_n_answers_have_their_own_state() -> None:
    engine = fake_engine(cache_tokens=1024)
    free = engine.submit([30, 31], greedy(12))
    structured = StructuredOutputsParams(regex="[0-9]{6}")
    bound = engine.submit([20], SamplingParams(n=3, max_tokens=20, seed=1, structured_outputs=structured))
    deltas = run(engine)
    assert answer(deltas, free) == continuation([30, 31], 12)
    texts = [text(deltas, bound, index) for index in range(3)]
    assert all(re.fullmatch("[0-9]{6}", answer) for answer in texts)
    assert len(set(texts)) == 3


def test_an_object_of_thousands_of_properties_below_the_first_token_is_followed() -> None:
    """From 501 that may be left out on it was taken, and failed while it was written."""
    wide = {"properties": {f"p{i}": {"type": "integer"} for i in range(2000)}, "additionalProperties": False}
    structured = StructuredOutputsParams(json={"type": "array", "items": {"type": "object", **wide}})
    state = Grammars(TOKENIZER, VOCABULARY).compile(structured)
    for token_id in TOKENIZER.encode('[{"p1":1,"p1998":2}]'):
        allowed_W = state.allowed()
        assert allowed_W is not None, state.error
        assert allowed_W[token_id]
        state.accept(token_id)
    assert state.error is None
    assert state.finished


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_drafts_change_nothing_under_a_grammar(temperature: float, seed: int) -> None:
    def made(**more: Any) -> str:
        return written(StructuredOutputsParams(json=PERSON), seed, temperature=temperature, **more)

    plain = made(draft_tokens=0)
    assert made() == made(prediction=plain) == made(prediction='{"name": "x", "age": 3}') == plain


def test_text_that_the_grammar_forces_takes_few_steps() -> None:
    structured = StructuredOutputsParams(choice=["a fixed sentence that is long and that nobody can change"])
    forced = TOKENIZER.encode(structured.choice[0])  # type: ignore[index]
    engine = fake_engine(FakeModel(script(forced, 2), context=512), cache_tokens=1024)
    name = engine.submit([20, 21], greedy(200, structured_outputs=structured))
    deltas = run(engine)
    assert text(deltas, name) == structured.choice[0]  # type: ignore[index]
    assert len(deltas) < len(forced) / 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"json": {"type": "nonsense"}}, "nonsense"),
        ({"json": "not json"}, "not a JSON Schema"),
        ({"json": "[1]"}, "not a JSON Schema"),
        ({"json": {"type": "string", "format": "no-such-format"}}, "format"),
        ({"regex": "(a"}, "regex"),
        ({"grammar": "start: missing"}, "missing"),
        ({"json": '{"type":"array","items":' * 5000 + "{}" + "}" * 5000}, "not a JSON Schema|recursion"),
        ({"json": {"enum": ["x" * 50 + str(i) for i in range(20000)]}}, "at most 262144"),
        ({"json": {"type": "integer", "multipleOf": 999983, "minimum": 5}}, "fuel"),
        ({"json": {"properties": {f"p{i}": {"type": "integer"} for i in range(5000)}}}, "too big"),
        ({"regex": "\ud800"}, "not a regular expression"),
        ({"grammar": 'start: "\ud800"'}, "not a Lark grammar"),
        ({"choice": ["\ud800"]}, "structured_outputs"),
        ({"json": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}}, "structured_outputs"),
    ],
)
def test_a_grammar_that_does_not_compile_is_refused_and_the_engine_serves_on(
    wrong: dict[str, Any], message: str
) -> None:
    engine = fake_engine()
    other = engine.submit([20], greedy(4))
    with pytest.raises(InvalidValue, match=message) as caught:
        engine.submit([20], greedy(4, structured_outputs=StructuredOutputsParams(**wrong)))
    assert caught.value.param == "structured_outputs"
    assert len(str(caught.value)) < 500
    assert answer(run(engine), other) == continuation([20], 4)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"regex": "a", "json_object": True},
        {"choice": []},
        {"choice": "abc"},
        {"choice": [""]},
        {"regex": 5},
    ],
)
def test_what_names_no_grammar_or_several_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match="structured_outputs"):
        StructuredOutputsParams(**wrong)
    with pytest.raises(InvalidValue, match="structured_outputs"):
        SamplingParams(structured_outputs={"regex": "a"})  # type: ignore[arg-type]


def test_a_grammar_that_gives_up_midway_fails_its_own_request_only() -> None:
    engine = fake_engine()
    bound = engine.submit([20], greedy(20, structured_outputs=StructuredOutputsParams(regex="[a-z]{30}")))
    free = engine.submit([30, 31], greedy(12))
    engine.step()
    (request,) = (r for r in engine._scheduler.running if r.id == bound)
    assert request.constraint is not None
    request.constraint.accept(TOKENIZER.encode("7")[0])  # not allowed: the library refuses all that follows
    deltas = run(engine)
    (last,) = [d for d in deltas if d.request_id == bound and d.finish_reason]
    assert last.finish_reason == "error"
    assert "grammar" in (last.error or "")
    assert answer(deltas, free)[-11:] == continuation([30, 31], 12)[-11:]
    engine.check()


def test_the_models_rows_beyond_the_tokenizer_and_its_control_tokens_are_never_allowed() -> None:
    state = Grammars(TOKENIZER, VOCABULARY).compile(StructuredOutputsParams(regex="(.|\n)*"))
    allowed_W = state.allowed()
    assert allowed_W is not None
    assert allowed_W.shape == (VOCABULARY,)
    assert not allowed_W[TOKENIZER.vocab_size :].any()
    assert TOKENIZER.fim is not None
    assert not allowed_W[[TOKENIZER.bos_id, TOKENIZER.fim.begin, TOKENIZER.fim.hole, TOKENIZER.fim.end]].any()
    assert allowed_W[TOKENIZER.eos_id]
