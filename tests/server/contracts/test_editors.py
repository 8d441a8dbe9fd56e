"""What editors send for completions while somebody types (C3 to C11), and what each insists on in the answer."""

import json
from typing import Any

import pytest

from coderv2.text.fim import encode_fim, with_path
from coderv2.text.tokenizer import FIM_BEGIN, FIM_END, FIM_HOLE
from tests.server.fakes import ScriptedEngine, events_of, lines_of, post, request, said, scripted_app
from tests.tiny_tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
MARKS = [FIM_BEGIN, FIM_HOLE, FIM_END]
CONTINUE_STOPS = [*MARKS, "//", "<｜end▁of▁sentence｜>", "/src/", "#- coding: utf-8", "```"]
PREFIX, SUFFIX = "# Path: a.py\r\ndef f(x):\n    ", "\n    return y\n"
HOLE = encode_fim(TOKENIZER, PREFIX, SUFFIX)
T2 = f"{FIM_BEGIN}{PREFIX}{FIM_HOLE}{SUFFIX}{FIM_END}"


def _engine(*texts: str, finish: str = "stop", times: int = 1) -> ScriptedEngine:
    return ScriptedEngine(*[said(*texts, finish=finish)] * times, max_model_len=4096)


@pytest.mark.parametrize("root", ["/beta", "/v1/beta", "//beta", "/beta/"])
def test_c3_continue_with_deepseek(root: str) -> None:
    engine = _engine("y = ", "x")
    body = {
        "model": "deepseek-coder",
        "prompt": PREFIX,
        "suffix": SUFFIX,
        "max_tokens": 2048,
        "temperature": 0.01,
        "stop": CONTINUE_STOPS,
        "stream": True,
    }
    response = post(scripted_app(engine), f"{root}/completions".replace("beta//", "beta/"), **body)
    *chunks, done = events_of(response)
    assert done == "[DONE]"
    # Its parser reads choices[0].text of every event, unguarded.
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "y = x"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert engine.prompts == [HOLE]
    assert engine.params[0].stops == tuple(CONTINUE_STOPS)
    assert ": ping" not in response.text


def test_c4_continue_with_openai_sends_the_marks_itself() -> None:
    engine = _engine("y")
    headers = {"authorization": "Bearer KEY", "api-key": "KEY", "content-type": "application/json"}
    body = {
        "model": "deepseek-coder-v2",
        "prompt": T2,
        "stop": CONTINUE_STOPS,
        "max_tokens": 9,
        "stream": True,
    }
    response = request(
        scripted_app(engine), "POST", "/v1/completions", content=json.dumps(body), headers=headers
    )
    assert events_of(response)[-1] == "[DONE]"
    assert engine.prompts == [HOLE]


def test_c4_the_vllm_provider_reads_the_context_of_the_first_model() -> None:
    (card,) = request(scripted_app(_engine("a")), "GET", "/v1/models").json()["data"]
    assert card["max_model_len"] == 4096


def test_c5_continue_with_ollama() -> None:
    engine = _engine("y", " = x")
    app = scripted_app(engine)
    assert ".Suffix" in post(app, "/api/show", name="deepseek-coder-v2:latest").json()["template"]
    body = {
        "model": "deepseek-coder-v2:latest",
        "prompt": PREFIX,
        "suffix": SUFFIX,
        "raw": True,
        "keep_alive": 1800,
        "stream": True,
        "options": {"temperature": 0.01, "num_predict": 20, "stop": CONTINUE_STOPS, "num_ctx": 4096},
    }
    *lines, last = lines_of(post(app, "/api/generate", **body))
    assert [line["response"] for line in lines] == ["y", " = x"]
    assert not any(line["done"] for line in lines)
    assert (last["done"], last["done_reason"], last["response"]) == (True, "stop", "")
    assert last["prompt_eval_count"] == len(HOLE)
    assert last["eval_count"] == 2
    assert engine.prompts == [HOLE]
    assert engine.params[0].max_tokens == 20


def test_c5_zeds_older_path() -> None:
    engine = _engine("y")
    body = {"model": "deepseek-coder-v2", "prompt": T2, "raw": True, "stream": False}
    options = {"num_predict": 64, "temperature": 0.2, "stop": [*MARKS, *(f"s{i}" for i in range(11))]}
    answer = post(scripted_app(engine), "/api/generate", **body, options=options).json()
    assert answer["response"] == "y"
    assert answer["created_at"].endswith("Z")
    assert engine.prompts == [HOLE]


LLAMA_VIM: dict[str, Any] = {
    "id_slot": 0,
    "input_prefix": PREFIX[: -len("    ")],
    "input_suffix": SUFFIX,
    "input_extra": [],
    "prompt": "    ",
    "n_predict": 128,
    "stop": [],
    "n_indent": 4,
    "top_k": 40,
    "top_p": 0.9,
    "samplers": ["top_k", "top_p", "infill"],
    "stream": False,
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 250,
    "model": "",
}


def test_c6_llama_vim() -> None:
    engine = _engine("y = x")
    answer = post(scripted_app(engine), "/infill", **LLAMA_VIM).json()
    assert answer["content"] == "y = x"
    assert {"tokens_cached", "truncated"} <= answer.keys()
    assert {
        f"{kind}_{name}"
        for kind in ("prompt", "predicted")
        for name in ("n", "ms", "per_token_ms", "per_second")
    } <= answer["timings"].keys()
    assert engine.prompts == [HOLE]
    assert engine.params[0].top_k == 40


def test_c6_response_fields_are_keys_as_they_are_written() -> None:
    app = scripted_app(_engine("y", times=2))
    fields = ["content", "timings/prompt_n", "nothing/such"]
    answer = post(app, "/infill", **LLAMA_VIM, response_fields=fields).json()
    assert answer == {"content": "y", "timings/prompt_n": len(HOLE)}
    assert post(app, "/infill", **LLAMA_VIM, response_fields=[""]).json() == {}


def test_c6_nothing_to_predict_only_fills_the_cache() -> None:
    engine = _engine("y", finish="length")
    answer = post(scripted_app(engine), "/infill", **{**LLAMA_VIM, "n_predict": 0}).json()
    assert answer["content"] == ""
    assert engine.params[0].max_tokens == 1


def test_c6_several_completions_are_a_list() -> None:
    engine = ScriptedEngine([*said("a"), *said("b", index=1), *said("c", index=2)], max_model_len=4096)
    answers = post(scripted_app(engine), "/infill", **LLAMA_VIM, n_cmpl=3).json()
    assert [answer["content"] for answer in answers] == ["a", "b", "c"]


def test_c6_lines_that_are_indented_less_are_dropped() -> None:
    engine = _engine("y = x\n", "    z", " = 1\n\n", "def g", "():\n")
    answer = post(scripted_app(engine), "/infill", **LLAMA_VIM).json()
    assert answer["content"] == "y = x\n    z = 1\n"
    assert engine.closed == 1


def test_c6_other_files_come_before_the_hole() -> None:
    engine = _engine("y")
    extra = [{"filename": "b.py", "text": "B = 1", "time": 12}, {"text": "C"}]
    post(scripted_app(engine), "/infill", **{**LLAMA_VIM, "input_extra": extra})
    context = with_path("b.py", "B = 1") + with_path("", "C")
    assert engine.prompts == [encode_fim(TOKENIZER, PREFIX, SUFFIX, context=context)]


def test_c6_other_files_are_left_out_where_there_is_no_room() -> None:
    engine = ScriptedEngine(said("y"), max_model_len=len(HOLE) + 40)
    extra = [{"filename": "b.py", "text": "x = 1\n" * 500}, {"filename": "c", "text": "C"}]
    post(scripted_app(engine), "/infill", **{**LLAMA_VIM, "input_extra": extra, "n_predict": 8})
    assert engine.prompts == [encode_fim(TOKENIZER, PREFIX, SUFFIX, context=with_path("c", "C"))]


@pytest.mark.parametrize("extra", [[{"filename": "a"}], [{"text": 5}], ["a"], "a"])
def test_c6_a_strange_file_is_a_400(extra: Any) -> None:
    response = post(scripted_app(_engine()), "/infill", **{**LLAMA_VIM, "input_extra": extra})
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("input_extra")


def test_c6_what_llama_vscode_asks_besides() -> None:
    app = scripted_app(_engine("a"))
    assert request(app, "GET", "/health").status_code == 200
    ids = post(app, "/tokenize", content="def f").json()["tokens"]
    assert ids == TOKENIZER.encode("def f")
    assert post(app, "/detokenize", tokens=ids).json() == {"content": "def f"}
    pieces = post(app, "/tokenize", content="def é", with_pieces=True, add_special=True).json()["tokens"]
    assert pieces[0]["id"] == TOKENIZER.bos_id
    prompt = post(app, "/apply-template", messages=[{"role": "user", "content": "Hi"}]).json()["prompt"]
    assert prompt.endswith("User: Hi\n\nAssistant:")
    assert request(app, "GET", "/props").json()["default_generation_settings"]["n_ctx"] == 4096
    chat = {
        "messages": [{"role": "user", "content": "Hi"}],
        "cache_prompt": True,
        "samplers": [],
        "id_slot": 1,
    }
    assert post(app, "/v1/chat/completions", **chat, min_p=0.1).status_code == 200


def test_c7_zed_finds_all_that_its_parser_requires() -> None:
    body = {"model": "deepseek-coder-v2", "prompt": T2, "max_tokens": 64, "stop": MARKS}
    answer = post(scripted_app(_engine("y")), "/v1/completions", **body).json()
    assert {"id", "object", "created", "model", "choices", "usage"} <= answer.keys()
    assert isinstance(answer["created"], int)
    assert {"prompt_tokens", "completion_tokens", "total_tokens"} <= answer["usage"].keys()


def test_c8_tabby_with_deepseek_sees_the_reason_before_done() -> None:
    body = {"model": "m", "prompt": PREFIX, "max_tokens": 64, "temperature": 0.1, "stream": True}
    body |= {"suffix": None, "presence_penalty": 0.0, "model": "deepseek-coder"}
    *chunks, done = events_of(post(scripted_app(_engine("y")), "/v1/completions", **body))
    assert done == "[DONE]"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert all(isinstance(chunk["choices"][0]["text"], str) for chunk in chunks)


def test_c8_tabby_with_mistral() -> None:
    engine = _engine("y", times=2)
    body = {"model": "deepseek-coder", "prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 64, "random_seed": 7}
    whole = post(scripted_app(engine), "/v1/fim/completions", **body).json()
    assert whole["choices"][0]["message"]["content"] == "y"
    *chunks, _ = events_of(post(scripted_app(engine), "/v1/fim/completions", **body, stream=True))
    assert all(isinstance(chunk["choices"][0]["delta"]["content"], str) for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["total_tokens"] == len(HOLE) + 1
    assert engine.prompts == [HOLE] * 2
    assert engine.params[0].seed == 7


def test_c8_tabby_with_llama_cpp_ends_on_stop() -> None:
    engine = _engine("y", "z")
    body = {"seed": 1, "prompt": T2, "n_predict": 64, "temperature": 0.1, "stream": True, "penalty_last_n": 0}
    chunks = events_of(post(scripted_app(engine), "/completion", **body, presence_penalty=0.0))
    assert [chunk["stop"] for chunk in chunks] == [False, True]
    assert "".join(chunk["content"] for chunk in chunks) == "yz"
    assert engine.prompts == [HOLE]


TABBY: dict[str, Any] = {
    "language": "python",
    "segments": {
        "prefix": PREFIX,
        "suffix": SUFFIX,
        "filepath": "a.py",
        "git_url": "https://example.org/a.git",
        "declarations": [{"filepath": "d.py", "body": "D = 1"}],
        "relevant_snippets_from_changed_files": [
            {"filepath": "best.py", "body": "B = 1", "score": 2.5},
            {"filepath": "good.py", "body": "G = 1", "score": 1.5},
        ],
        "clipboard": None,
    },
    "user": "al",
    "temperature": 0.1,
    "seed": 7,
}


def test_c8_tabbys_plugins_send_segments() -> None:
    engine = _engine("y = ", "x")
    answer = post(scripted_app(engine), "/v1/completions", **TABBY).json()
    assert answer.keys() == {"id", "choices"}
    assert answer["choices"] == [{"index": 0, "text": "y = x"}]
    files = [("good.py", "G = 1"), ("best.py", "B = 1"), ("d.py", "D = 1")]
    context = "".join(with_path(*file) for file in files)
    assert engine.prompts == [encode_fim(TOKENIZER, PREFIX, SUFFIX, context=context)]
    assert (engine.params[0].max_tokens, engine.params[0].seed, engine.params[0].temperature) == (64, 7, 0.1)


@pytest.mark.parametrize("suffix", ["", None])
def test_c8_tabbys_empty_suffix_is_a_line_end(suffix: str | None) -> None:
    engine = _engine("y")
    post(scripted_app(engine), "/v1/completions", segments={"prefix": PREFIX, "suffix": suffix})
    assert engine.prompts == [encode_fim(TOKENIZER, PREFIX, "\n")]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"segments": {"prefix": 5}}, "segments.prefix"),
        ({"segments": "a"}, "segments"),
        ({"segments": {"prefix": "a", "declarations": [{}]}}, "segments.declarations[0].body"),
        ({"segments": None}, "prompt"),
        ({"segments": None, "prompt": "a", "temperature": 9}, "temperature"),
    ],
)
def test_c8_a_field_of_either_shape_is_named_as_it_was_sent(body: dict[str, Any], param: str) -> None:
    refused = post(scripted_app(_engine()), "/v1/completions", **body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_c8_what_tabbys_plugins_ask_besides() -> None:
    app = scripted_app(_engine())
    for kind in ("view", "select", "select"):
        assert post(app, "/v1/events", type=kind, completion_id="cmpl-1", choice_index=0).status_code == 200
    assert post(app, "/v1/events", type="sing").status_code == 400
    page = request(app, "GET", "/metrics").text
    assert 'coderv2_completion_events_total{event="select"} 2.0' in page
    assert request(app, "GET", "/v1/health").status_code == 200
    setting = request(app, "GET", "/v1beta/server_setting").json()
    assert setting == {"disable_client_side_telemetry": True}


def test_c9_minuet_sends_the_same_three_times_without_a_limit() -> None:
    engine = _engine("y", times=3)
    app = scripted_app(engine)
    body = {
        "model": "deepseek-coder",
        "stream": True,
        "prompt": f"# language: python\n{PREFIX}",
        "suffix": SUFFIX,
    }
    for _ in range(3):
        assert events_of(post(app, "/beta/completions", **body))[-1] == "[DONE]"
    assert engine.params[0].max_tokens == 4096 - len(engine.prompts[0])


def test_c10_proxyai() -> None:
    engine = _engine("y")
    headers = {"content-type": "application/json", "X-LLM-Application-Tag": "proxyai"}
    body = {
        "prompt": f"#b.py\nB = 1\n{T2}",
        "stream": True,
        "temperature": 0.2,
        "max_tokens": 24,
        "stop": ["<|EOT|>", "<｜end▁of▁sentence｜>"],
    }
    response = request(
        scripted_app(engine), "POST", "/v1/completions", content=json.dumps(body), headers=headers
    )
    assert events_of(response)[-1] == "[DONE]"
    assert engine.prompts == [encode_fim(TOKENIZER, PREFIX, SUFFIX, context=with_path("b.py", "B = 1"))]


def test_c11_llm_ls_reads_the_text() -> None:
    body = {"model": "deepseek-coder", "prompt": T2, "stream": False, "max_tokens": 60, "temperature": 0.2}
    answer = post(scripted_app(_engine("y")), "/v1/completions", **body).json()
    assert answer["choices"][0]["text"] == "y"


def test_t4_the_same_hole_on_six_roads() -> None:
    engine = _engine("y", times=6)
    app = scripted_app(engine)
    prefix, suffix = "a = '🚀'\r\n\ud800", "\r\n"
    raw = f"{FIM_BEGIN}{prefix}{FIM_HOLE}{suffix}{FIM_END}"
    post(app, "/v1/completions", prompt=prefix, suffix=suffix)
    post(app, "/v1/completions", prompt=raw)
    post(app, "/beta/completions", prompt=prefix, suffix=suffix)
    post(app, "/v1/fim/completions", prompt=prefix, suffix=suffix)
    post(app, "/infill", input_prefix=prefix, input_suffix=suffix, prompt="")
    post(app, "/api/generate", prompt=prefix, suffix=suffix, stream=False)
    assert engine.prompts == [encode_fim(TOKENIZER, prefix, suffix)] * 6


def test_t3_marks_inside_the_parts_stay_text_on_every_road() -> None:
    engine = _engine("y", times=4)
    app = scripted_app(engine)
    post(app, "/v1/completions", prompt=FIM_END, suffix=FIM_HOLE)
    post(app, "/v1/fim/completions", prompt=FIM_END, suffix=FIM_HOLE)
    post(app, "/infill", input_prefix=FIM_END, input_suffix=FIM_HOLE, prompt="")
    post(app, "/api/generate", prompt=FIM_END, suffix=FIM_HOLE)
    assert engine.prompts == [encode_fim(TOKENIZER, FIM_END, FIM_HOLE)] * 4
    assert TOKENIZER.fim is not None
    assert engine.prompts[0].count(TOKENIZER.fim.end) == 1
