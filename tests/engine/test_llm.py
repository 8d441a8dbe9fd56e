import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from coderv2 import LLM, SamplingParams
from coderv2.engine.grammar import StructuredOutputsParams
from coderv2.engine.outputs import Logprob, RequestOutput
from coderv2.engine.vllm_names import _ALLOWED, check_names
from coderv2.errors import ContextTooLong, InvalidValue, ModelNotFound, ServiceError, Unsupported
from coderv2.text.chat import Message, encode_chat
from coderv2.text.fim import encode_fim
from coderv2.text.tokenizer import EOS, FIM_HOLE, Tokenizer
from tests.engine.fakes import FakeModel, continuation, fake_engine, greedy, likeliest, one_peak, script
from tests.tiny_tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def fake_llm(model: FakeModel | None = None, **settings: Any) -> LLM:
    return LLM.from_engine(fake_engine(model, **settings))


def tokens(outputs: list[RequestOutput]) -> list[list[int]]:
    return [output.outputs[0].token_ids for output in outputs]


def quiet(llm: LLM, prompts: Any, params: Any = None, **more: Any) -> list[RequestOutput]:
    return llm.generate(prompts, params or greedy(4), use_tqdm=False, **more)


def test_a_checkpoint_folder_generates(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    llm = LLM(str(tiny_checkpoint), max_model_len=256, trust_remote_code=True, enforce_eager=True)
    (output,) = llm.generate("def quick_sort(", SamplingParams(temperature=0, max_tokens=5, ignore_eos=True))
    assert len(output.outputs[0].token_ids) == 5
    assert output.outputs[0].text == TOKENIZER.decode(output.outputs[0].token_ids)
    assert output.finished
    assert llm.engine.max_model_len == 256
    assert "prompts: 100%" in capsys.readouterr().err


def test_the_vllm_program_of_the_readme_runs(tiny_checkpoint: Path) -> None:
    llm = LLM(
        model=str(tiny_checkpoint),
        tensor_parallel_size=1,
        max_model_len=512,
        trust_remote_code=True,
        enforce_eager=True,
    )
    sampling_params = SamplingParams(temperature=0.3, max_tokens=16, stop_token_ids=[TOKENIZER.eos_id])
    conversations = [[Message("user", "Who are you?")], [Message("user", "write a quick sort in python.")]]
    prompt_token_ids = [encode_chat(TOKENIZER, messages) for messages in conversations]
    outputs = llm.generate(prompt_token_ids=prompt_token_ids, sampling_params=sampling_params)
    assert [output.prompt_token_ids for output in outputs] == prompt_token_ids
    assert all(isinstance(output.outputs[0].text, str) for output in outputs)


def test_results_come_in_the_order_of_the_prompts_with_names_that_count_on() -> None:
    llm = fake_llm(max_waiting=3, max_running=2)
    prompts = [[20 + i] for i in range(25)]
    lengths = [1 + 5 * i % 7 for i in range(25)]
    outputs = quiet(llm, prompts, [greedy(n) for n in lengths])
    assert tokens(outputs) == [continuation(p, n) for p, n in zip(prompts, lengths, strict=True)]
    assert [output.request_id for output in outputs] == [str(i) for i in range(25)]
    assert quiet(llm, "more")[0].request_id == "25"


def test_every_form_of_a_prompt_is_understood() -> None:
    llm, text = fake_llm(), "return values"
    ids = TOKENIZER.encode(text, bos=True)
    forms: list[Any] = [
        text,
        [text],
        {"prompt": text},
        ids,
        [ids],
        [{"prompt_token_ids": ids}],
        [{"input_ids": ids, "attention_mask": [1] * len(ids)}],
        [np.array(ids)],
    ]
    for form in forms:
        (output,) = quiet(llm, form)
        assert (output.prompt_token_ids, output.outputs[0].token_ids) == (ids, continuation(ids, 4))
    (output,) = quiet(llm, None, prompt_token_ids=ids)
    assert (output.prompt_token_ids, output.prompt) == (ids, None)
    assert quiet(llm, text)[0].prompt == text
    assert quiet(llm, []) == []


def test_a_text_prompt_may_hold_control_tokens_and_gets_one_bos() -> None:
    (output,) = quiet(fake_llm(), TOKENIZER.decode([TOKENIZER.bos_id], skip_special=False) + FIM_HOLE)
    assert TOKENIZER.fim is not None
    assert output.prompt_token_ids == [TOKENIZER.bos_id, TOKENIZER.fim.hole]


def test_n_answers_are_numbered_and_differ() -> None:
    llm = fake_llm(FakeModel(lambda ids: torch.zeros(600)))
    (output,) = quiet(llm, "x", SamplingParams(n=3, max_tokens=8, ignore_eos=True))
    assert [answer.index for answer in output.outputs] == [0, 1, 2]
    assert len({tuple(answer.token_ids) for answer in output.outputs}) == 3


def test_without_sampling_params_vllms_defaults_hold() -> None:
    (output,) = fake_llm().generate("x", use_tqdm=False)
    assert len(output.outputs[0].token_ids) <= SamplingParams().max_tokens == 16  # type: ignore[operator]


def test_logprobs_hold_the_likeliest_and_the_chosen_token() -> None:
    def logits(ids: list[int]) -> Tensor:
        row_W = one_peak(ids)
        row_W[70] = 4.0
        return row_W

    (output,) = quiet(fake_llm(FakeModel(logits)), [[20]], greedy(2, logprobs=1, logit_bias={70: 50}))
    answer = output.outputs[0]
    assert answer.token_ids == [70, 70]
    assert answer.logprobs is not None
    norm = math.log(math.exp(5) + math.exp(4) + 598)
    places = answer.logprobs[0]
    assert places.keys() == {likeliest([20]), 70}
    assert places[70] == Logprob(places[70].logprob, 2, TOKENIZER.decode([70]))
    assert places[70].logprob == pytest.approx(4 - norm, abs=1e-4)
    assert answer.cumulative_logprob == pytest.approx(2 * (4 - norm), abs=1e-4)


def test_without_logprobs_there_are_none() -> None:
    answer = quiet(fake_llm(), "x")[0].outputs[0]
    assert (answer.logprobs, answer.cumulative_logprob) == (None, None)


def test_a_stop_string_is_reported() -> None:
    prompt = TOKENIZER.encode("x", bos=True)
    model = FakeModel(script(TOKENIZER.encode("left + middle"), len(prompt)))
    (output,) = quiet(fake_llm(model), "x", greedy(20, stop="+"))
    answer = output.outputs[0]
    assert (answer.text, answer.finish_reason, answer.stop_reason) == ("left ", "stop", "+")


def test_chat_encodes_one_conversation_or_several() -> None:
    llm = fake_llm()
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi " + EOS},
    ]
    ids = encode_chat(TOKENIZER, [Message("system", "Be brief."), Message("user", "Hi " + EOS)])
    (alone,) = llm.chat(messages, greedy(3), use_tqdm=False)
    several: list[list[dict[str, Any]]] = [messages, messages[1:]]
    both = llm.chat(several, greedy(3), use_tqdm=False)
    assert alone.prompt_token_ids == both[0].prompt_token_ids == ids
    assert len(both) == 2
    assert TOKENIZER.eos_id not in ids


def test_chat_reads_text_parts_and_continues_a_last_message() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "Hello "}, {"type": "text", "text": "world"}]},
        {"role": "assistant", "content": "Hello!"},
    ]
    (output,) = fake_llm().chat(
        messages, greedy(2), add_generation_prompt=False, continue_final_message=True, use_tqdm=False
    )
    assert TOKENIZER.decode(output.prompt_token_ids) == "User: Hello world\n\nAssistant: Hello!"


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user"},
        {"content": "x"},
        {"role": "user", "content": None},
        {"role": "ghost", "content": "x"},
    ],
)
def test_a_message_without_role_or_text_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        fake_llm().chat([message])


def test_a_picture_in_a_message_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match="image_url"):
        fake_llm().chat([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])


def test_infill_puts_prefix_and_suffix_round_the_hole() -> None:
    llm = fake_llm()
    (output,) = llm.infill("def f(", "):\n", greedy(3), use_tqdm=False)
    assert output.prompt_token_ids == encode_fim(TOKENIZER, "def f(", "):\n")
    assert len(llm.infill(["a", "b"], ["c", "d"], greedy(3), use_tqdm=False)) == 2
    with pytest.raises(InvalidValue, match="2 prefixes, but 1 suffixes"):
        llm.infill(["a", "b"], ["c"])


def test_a_prompt_that_is_too_long_is_named_before_anything_runs() -> None:
    model = FakeModel()
    with pytest.raises(ContextTooLong, match=r"prompt 2: .*128 tokens.*200 in the prompt"):
        quiet(fake_llm(model), [[20], [21], [22] * 200])
    assert model.batches == []


@pytest.mark.parametrize(
    ("prompts", "more"),
    [
        (None, {}),
        ("x", {"prompt_token_ids": [5]}),
        ([[5, 600]], {}),
        ([[]], {}),
        ([5.5], {}),
        ([["a", "b"]], {}),
        ([None], {}),
    ],
)
def test_prompts_that_make_no_sense_are_refused(prompts: Any, more: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        fake_llm().generate(prompts, greedy(2), use_tqdm=False, **more)


def test_a_prompt_of_another_kind_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match="multi_modal_data"):
        quiet(fake_llm(), [{"prompt": "x", "multi_modal_data": {}}])


def test_as_many_sampling_params_as_prompts_or_one() -> None:
    with pytest.raises(InvalidValue, match="2 sampling_params for 3 prompts"):
        quiet(fake_llm(), ["a", "b", "c"], [greedy(2), greedy(2)])


def test_a_failing_model_raises_and_leaves_the_engine_usable() -> None:
    def explosive(ids: list[int]) -> Tensor:
        if ids[0] == 66 and len(ids) == 3:
            raise RuntimeError("out of memory")
        return one_peak(ids)

    llm = fake_llm(FakeModel(explosive), max_running=2)
    with pytest.raises(ServiceError, match="out of memory"):
        quiet(llm, [[20], [66], [21], [22]], greedy(8))
    assert llm.engine.stats().pages_used == 0
    assert tokens(quiet(llm, [[20]])) == [continuation([20], 4)]


def test_an_interrupt_leaves_nothing_running() -> None:
    def interrupted(ids: list[int]) -> Tensor:
        if len(ids) == 5:
            raise KeyboardInterrupt
        return one_peak(ids)

    llm = fake_llm(FakeModel(interrupted))
    with pytest.raises(KeyboardInterrupt):
        quiet(llm, [[20], [21]], greedy(50))
    assert llm.engine.stats().pages_used == 0
    llm.engine.check()


def test_the_seed_makes_runs_repeatable(tiny_checkpoint: Path) -> None:
    def draw(seed: int) -> list[list[int]]:
        llm = LLM(tiny_checkpoint, max_model_len=64, max_num_seqs=2, seed=seed)
        return tokens(quiet(llm, ["a", "b"], SamplingParams(max_tokens=6, ignore_eos=True)))

    assert draw(0) == draw(0) != draw(1)


def test_sizes_by_vllms_names_reach_the_engine(tiny_checkpoint: Path) -> None:
    llm = LLM(
        tiny_checkpoint,
        max_model_len=64,
        max_num_seqs=3,
        max_num_batched_tokens=32,
        block_size=8,
        kv_cache_dtype="bfloat16",
        dtype="float32",
        cache_tokens=128,
    )
    settings = llm.engine.settings
    assert (settings.max_running, settings.max_batch_tokens, settings.page_size) == (3, 32, 8)
    assert settings.cache_dtype == torch.bfloat16
    assert llm.engine.stats().pages_total == 16
    assert quiet(llm, "x")[0].finished


@pytest.mark.parametrize(
    ("name", "dtype"), [("int8", torch.int8), ("fp8_e4m3", torch.float8_e4m3fn), ("fp8", torch.float8_e4m3fn)]
)
def test_an_answer_over_a_cache_of_bytes_is_much_like_the_exact_one(name: str, dtype: torch.dtype) -> None:
    exact, rounded = (
        LLM(kv_cache_dtype=kind, max_model_len=512, max_num_seqs=1) for kind in ("float32", name)
    )
    assert rounded.engine.settings.cache_dtype == dtype
    prompt, params = "def add(a, b):\n    return", SamplingParams(max_tokens=8, temperature=0, logprobs=1)
    ours, theirs = (llm.generate(prompt, params, use_tqdm=False)[0].outputs[0] for llm in (rounded, exact))
    assert ours.text == theirs.text
    gap = abs(ours.cumulative_logprob - theirs.cumulative_logprob)
    assert 0 < gap < 0.2


def test_another_tokenizer_folder_may_be_given(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((tiny_checkpoint / "tokenizer.json").read_bytes())
    llm = LLM(tiny_checkpoint, tokenizer=tmp_path, max_model_len=64)
    assert isinstance(llm.get_tokenizer(), Tokenizer)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pipeline_parallel_size", 4),
        ("quantization", "awq"),
        ("dtype", "float16"),
        ("dtype", torch.float16),
        ("dtype", "int3"),
        ("kv_cache_dtype", "fp8_ds_mla"),
        ("gpu_memory_utilization", 0.9),
        ("enable_lora", True),
        ("swap_space", 4),
        ("revision", "main"),
    ],
)
def test_a_name_of_vllms_that_cannot_be_honoured_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(Unsupported, match=name) as caught:
        LLM("nowhere", **{name: value})
    assert caught.value.param == name


def test_a_name_that_vllm_does_not_have_either_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_modle_len'"):
        LLM("nowhere", max_modle_len=5)


def test_values_that_say_what_happens_anyway_are_accepted(tiny_checkpoint: Path) -> None:
    LLM(tiny_checkpoint, max_model_len=64, swap_space=0, enable_chunked_prefill=True, load_format="auto")


def test_sizes_that_are_none_are_the_engines_own(tiny_checkpoint: Path) -> None:
    llm = LLM(
        tiny_checkpoint, max_model_len=64, max_num_seqs=None, max_num_batched_tokens=None, block_size=None
    )
    settings = llm.engine.settings
    assert (settings.max_running, settings.max_batch_tokens, settings.page_size) == (64, 2048, 16)


def test_deterministic_reaches_the_engine(tiny_checkpoint: Path) -> None:
    assert LLM(tiny_checkpoint, max_model_len=64, deterministic=True).engine.settings.deterministic


@pytest.mark.parametrize("name", sorted(_ALLOWED))
def test_every_name_of_vllms_takes_what_happens_anyway_and_refuses_all_else(name: str) -> None:
    for value in _ALLOWED[name]:
        check_names({name: value})
    with pytest.raises(Unsupported, match=name):
        check_names({name: "something else"})


def test_a_switch_is_not_a_number() -> None:
    check_names({"swap_space": 0.0, "pipeline_parallel_size": 1})
    for name, value in {"pipeline_parallel_size": True, "enable_lora": 0}.items():
        with pytest.raises(Unsupported, match=name):
            check_names({name: value})


def test_a_model_that_is_nowhere_is_an_error() -> None:
    with pytest.raises(ModelNotFound, match="nowhere"):
        LLM("nowhere")


def test_a_repeated_prompt_tells_how_much_of_it_was_cached() -> None:
    ids = list(range(20, 40))
    told = [
        [LLM.from_engine(engine).generate(prompt_token_ids=ids)[0].num_cached_tokens for _ in range(2)]
        for engine in (fake_engine(), fake_engine(prefix_caching=False))
    ]
    assert told == [[0, 19], [0, 0]]


def test_prompt_logprobs_have_vllms_shape() -> None:
    params = greedy(2, prompt_logprobs=1)
    (output,) = quiet(fake_llm(), [[20, 21, 22]], params)
    assert output.prompt_logprobs is not None
    first, second, third = output.prompt_logprobs
    assert first is None
    for place, (token, before) in zip((second, third), ((21, [20]), (22, [20, 21])), strict=True):
        assert place is not None
        assert place.keys() == {token, likeliest(before)}
        assert place[likeliest(before)].rank == 1
    assert quiet(fake_llm(), [[20, 21]], greedy(2))[0].prompt_logprobs is None


def test_a_grammar_a_prediction_and_healing_are_asked_for_in_the_sampling_params() -> None:
    structured = StructuredOutputsParams(choice=["yes", "no"])
    (output,) = quiet(fake_llm(), "x", greedy(5, structured_outputs=structured, prediction="no"))
    assert output.outputs[0].text in ("yes", "no")
    assert output.outputs[0].finish_reason == "stop"
    (output,) = quiet(fake_llm(), "return val", greedy(1, token_healing=True))
    assert output.prompt_token_ids == TOKENIZER.encode("return val", bos=True)


def test_speculation_is_set_by_draft_tokens(tiny_checkpoint: Path) -> None:
    llm = LLM(tiny_checkpoint, draft_tokens=3, max_model_len=64, max_num_seqs=2)
    assert llm.engine.settings.draft_tokens == 3
    with pytest.raises(Unsupported, match="draft_tokens"):
        LLM(tiny_checkpoint, speculative_config={"method": "ngram"})
