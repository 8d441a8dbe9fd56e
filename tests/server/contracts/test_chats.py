"""What chat programs and agents send (C1, C2, C12 to C16), and what each insists on in the answer."""

import json
from typing import Any

import pytest

from coderv2.engine.request import Delta
from coderv2.text.chat import Message, encode_chat
from coderv2.text.tools import Tool, introduce, written_call, written_result
from tests.server.fakes import (
    ScriptedEngine,
    events_of,
    named_events_of,
    post,
    request,
    said,
    scripted_app,
)
from tests.tiny_tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
HI = {"role": "user", "content": "Hi"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": SCHEMA}}
CALL = [" Sure.\n<tool_call>\n", '{"name": "add", "argu', 'ments": {"a"', ": 1}}\n</tool", "_call>"]
INTRODUCED = Message("system", introduce([Tool("add", "Adds.", SCHEMA)]))


def test_c1_openai_python_sends_and_reads() -> None:
    body = json.dumps({"model": "deepseek-coder-v2", "messages": [HI], "stream": False})
    headers = {
        "content-type": "application/json",
        "accept": "application/json",
        "authorization": "Bearer EMPTY",
        "user-agent": "OpenAI/Python 3.54.0",
        "x-stainless-retry-count": "0",
        "x-stainless-read-timeout": "600",
    }
    app = scripted_app(ScriptedEngine(said("a")))
    answer = request(app, "POST", "/v1/chat/completions", content=body, headers=headers)
    assert answer.json()["choices"][0]["message"]["content"] == "a"


def test_c12_aider() -> None:
    messages = [
        {"role": "system", "content": "Act as an expert."},
        HI,
        {"role": "assistant", "content": "Ok."},
        {"role": "system", "content": "Reminder."},
        HI,
    ]
    engine = ScriptedEngine(said("x"))
    body = {"messages": messages, "model": "deepseek-coder-v2", "stream": True, "temperature": 0}
    assert events_of(post(scripted_app(engine), "/v1/chat/completions", **body))[-1] == "[DONE]"
    assert engine.params[0].greedy


def test_c13_llm_with_a_schema() -> None:
    engine = ScriptedEngine(said("{}"))
    format = {"type": "json_schema", "json_schema": {"name": "output", "schema": SCHEMA}}
    body = {"messages": [HI], "stream": True, "stream_options": {"include_usage": True}}
    *_, usage, done = events_of(
        post(scripted_app(engine), "/v1/chat/completions", **body, response_format=format)
    )
    assert (usage["choices"], done) == ([], "[DONE]")
    assert engine.params[0].structured_outputs is not None
    assert engine.params[0].structured_outputs.json == SCHEMA


def test_c16_tool_calls_whole() -> None:
    engine = ScriptedEngine(said(*CALL))
    answer = post(scripted_app(engine), "/v1/chat/completions", messages=[HI], tools=[TOOL]).json()
    (choice,) = answer["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", "Sure.")
    assert (call["type"], call["function"]) == ("function", {"name": "add", "arguments": '{"a": 1}'})
    assert engine.prompts == [encode_chat(TOKENIZER, [INTRODUCED, Message("user", "Hi")])]
    assert engine.params[0].structured_outputs is None


def test_c16_tool_calls_in_pieces() -> None:
    """E5: index in each, id, type, name and empty arguments in the first."""
    body = {"messages": [HI], "tools": [TOOL], "stream": True}
    *chunks, _ = events_of(post(scripted_app(ScriptedEngine(said(*CALL))), "/v1/chat/completions", **body))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    first, *others = calls
    assert first["id"].startswith("call_")
    assert (first["index"], first["type"], first["function"]) == (
        0,
        "function",
        {"name": "add", "arguments": ""},
    )
    assert all(call["index"] == 0 and call.keys() == {"index", "function"} for call in others)
    assert "".join(call["function"]["arguments"] for call in calls) == '{"a": 1}'
    assert "".join(delta.get("content") or "" for delta in deltas) == "Sure."
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_calls_and_results_stand_in_the_prompt_as_they_were_written() -> None:
    engine = ScriptedEngine(said("3"))
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [
        HI,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "2"},
    ]
    post(scripted_app(engine), "/v1/chat/completions", messages=messages, tools=[TOOL])
    expected = [
        INTRODUCED,
        Message("user", "Hi"),
        Message("assistant", written_call("add", '{"a": 1}')),
        Message("user", written_result("2")),
    ]
    assert engine.prompts == [encode_chat(TOKENIZER, expected)]


@pytest.mark.parametrize(
    ("choice", "constrained"),
    [
        ("auto", False),
        ("none", False),
        ("required", True),
        ({"type": "function", "function": {"name": "add"}}, True),
    ],
)
def test_what_must_be_called_is_a_grammar(choice: Any, constrained: bool) -> None:
    engine = ScriptedEngine(said("x"))
    post(scripted_app(engine), "/v1/chat/completions", messages=[HI], tools=[TOOL], tool_choice=choice)
    assert (engine.params[0].structured_outputs is not None) == constrained


def test_without_tools_a_call_is_text() -> None:
    for extra in ({}, {"tools": [TOOL], "tool_choice": "none"}):
        app = scripted_app(ScriptedEngine(said(*CALL)))
        message = post(app, "/v1/chat/completions", messages=[HI], **extra).json()["choices"][0]["message"]
        assert message["content"] == "".join(CALL).removeprefix(" ")


@pytest.mark.parametrize(
    "body",
    [
        {"tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "sing"}}},
        {"tools": [TOOL], "tool_choice": "maybe"},
    ],
)
def test_a_choice_that_cannot_be_met_is_named(body: dict[str, Any]) -> None:
    response = post(scripted_app(ScriptedEngine()), "/v1/chat/completions", messages=[HI], **body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "tool_choice")


def _messages(engine: ScriptedEngine, path: str = "/v1/messages", **body: Any) -> Any:
    return post(scripted_app(engine), path, **{"max_tokens": 9, "messages": [HI], "model": "claude-x"} | body)


def test_c2_anthropic_python() -> None:
    engine = ScriptedEngine(said(" Hello", finish="length"))
    answer = _messages(engine, system=[{"type": "text", "text": "Be brief.", "cache_control": {}}]).json()
    assert (answer["type"], answer["role"], answer["model"]) == ("message", "assistant", "claude-x")
    assert answer["content"] == [{"type": "text", "text": "Hello"}]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("max_tokens", None)
    prompt = encode_chat(TOKENIZER, [Message("system", "Be brief."), Message("user", "Hi")])
    assert engine.prompts == [prompt]
    assert answer["usage"]["input_tokens"] == len(prompt)
    assert answer["usage"]["output_tokens"] == 1


@pytest.mark.parametrize("root", ["/v1", "/anthropic/v1", ""])
def test_c15_claude_code_counts_what_is_later_charged(root: str) -> None:
    tools = [{"name": "add", "description": "Adds.", "input_schema": SCHEMA}]
    content = [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]
    body: dict[str, Any] = {"messages": [{"role": "user", "content": content}], "system": "S", "tools": tools}
    counted = post(scripted_app(ScriptedEngine()), f"{root}/messages/count_tokens?beta=true", **body).json()
    answer = _messages(ScriptedEngine(said("x")), f"{root}/messages?beta=true", **body).json()
    assert counted == {"input_tokens": answer["usage"]["input_tokens"]}


def test_c15_events_of_text_and_a_tool_in_order() -> None:
    tools = [{"name": "add", "input_schema": SCHEMA}]
    events = named_events_of(_messages(ScriptedEngine(said(*CALL)), tools=tools, stream=True))
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-2:] == ["message_delta", "message_stop"]
    starts = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
    assert starts == ["text", "tool_use"]
    assert kinds.count("content_block_stop") == 2
    deltas = [event for event in events if event["type"] == "content_block_delta"]
    arguments = [event["delta"]["partial_json"] for event in deltas if event["index"] == 1]
    assert json.loads("".join(arguments)) == {"a": 1}
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert events[-2]["usage"]["output_tokens"] == 5


def test_c15_results_and_last_words_of_the_assistant() -> None:
    messages = [
        HI,
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "add", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "2"}]},
        {"role": "assistant", "content": "It is"},
    ]
    engine = ScriptedEngine(said(" 2"))
    answer = _messages(engine, messages=messages).json()
    assert answer["content"][0]["text"] == " 2"
    expected = [
        Message("user", "Hi"),
        Message("assistant", written_call("add", '{"a": 1}')),
        Message("user", written_result("2")),
        Message("assistant", "It is"),
    ]
    assert engine.prompts == [
        encode_chat(TOKENIZER, expected, add_generation_prompt=False, continue_last=True)
    ]


def test_a_stop_sequence_is_named() -> None:
    engine = ScriptedEngine([Delta("r", 0, "a", (65,), finish_reason="stop", stop_reason="END")])
    answer = _messages(engine, stop_sequences=["END"]).json()
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "END")


def test_errors_of_messages_have_their_own_shape() -> None:
    response = _messages(ScriptedEngine(), model="gpt-4")
    error = response.json()
    assert (response.status_code, error["type"], error["error"]["type"]) == (404, "error", "not_found_error")
    assert error["request_id"] == response.headers["x-request-id"]


def test_errors_of_ollama_are_one_text() -> None:
    response = post(scripted_app(ScriptedEngine()), "/api/generate", model="gpt-4", prompt="a")
    assert response.status_code == 404
    assert isinstance(response.json()["error"], str)


def _respond(engine: ScriptedEngine, **body: Any) -> Any:
    return post(scripted_app(engine), "/v1/responses", **{"input": "Hi", "model": "deepseek-coder"} | body)


CODEX_TOOL = {
    "type": "function",
    "name": "add",
    "description": "Adds.",
    "parameters": SCHEMA,
    "strict": False,
}


def test_c14_codex() -> None:
    items = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Rules"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "reasoning", "summary": [], "encrypted_content": "x"},
        {"type": "function_call", "call_id": "c", "name": "add", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c", "output": "2"},
    ]
    body = {
        "instructions": "Be brief.",
        "input": items,
        "tools": [CODEX_TOOL],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "k",
    }
    engine = ScriptedEngine(said(*CALL))
    events = named_events_of(_respond(engine, **body))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"].removeprefix("response.") for event in events]
    deltas = ("output_text.delta", "function_call_arguments.delta")
    assert [kind for kind in kinds if kind not in deltas] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    message, call = events[-1]["response"]["output"]
    assert message["content"][0]["text"] == "Sure."
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "add", '{"a": 1}')
    assert events[-1]["response"]["usage"]["output_tokens"] == 5
    expected = [
        INTRODUCED,
        Message("system", "Be brief."),
        Message("developer", "Rules"),
        Message("user", "Hi"),
        Message("assistant", written_call("add", '{"a": 1}')),
        Message("user", written_result("2")),
    ]
    assert engine.prompts == [encode_chat(TOKENIZER, expected)]


def test_a_response_can_be_followed_fetched_and_deleted() -> None:
    engine = ScriptedEngine(said(" Hello"), said(" Bye"))
    app = scripted_app(engine)
    first = post(app, "/v1/responses", input="Hi", instructions="Be brief.").json()
    assert (first["status"], first["output"][0]["content"][0]["text"]) == ("completed", "Hello")
    assert request(app, "GET", f"/v1/responses/{first['id']}").json() == first
    post(app, "/v1/responses", input="Go", previous_response_id=first["id"])
    expected = [Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Go")]
    assert engine.prompts[1] == encode_chat(TOKENIZER, expected)
    assert request(app, "DELETE", f"/v1/responses/{first['id']}").json()["deleted"] is True
    gone = request(app, "GET", f"/v1/responses/{first['id']}")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "not_found")


def test_a_response_that_is_not_to_be_stored_is_not() -> None:
    app = scripted_app(ScriptedEngine(said("a")))
    answer = post(app, "/v1/responses", input="Hi", store=False).json()
    assert request(app, "GET", f"/v1/responses/{answer['id']}").status_code == 404


def test_a_response_that_is_cut_is_incomplete() -> None:
    answer = _respond(ScriptedEngine(said("a", finish="length")), max_output_tokens=1).json()
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert answer["output"][0]["status"] == "incomplete"


def test_a_response_that_fails_says_so_as_its_last_event() -> None:
    engine = ScriptedEngine([*said("a", "b")[:1], RuntimeError("secret")])
    *_, last = named_events_of(_respond(engine, stream=True))
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert "secret" not in json.dumps(last)


@pytest.mark.parametrize("tool", [{"type": "web_search"}, {"type": "file_search", "vector_store_ids": []}])
def test_tools_that_openai_hosts_are_refused_by_name(tool: dict[str, Any]) -> None:
    response = _respond(ScriptedEngine(), tools=[tool])
    assert (response.status_code, response.json()["error"]["param"]) == (400, "tools[0].type")


def test_ollama_chat_with_tools() -> None:
    engine = ScriptedEngine(said(*CALL), said(*CALL))
    app = scripted_app(engine)
    answer = post(app, "/api/chat", messages=[HI], tools=[TOOL], stream=False).json()
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    assert answer["message"] == {"role": "assistant", "content": "Sure.", "tool_calls": [call]}
    lines = [json.loads(x) for x in post(app, "/api/chat", messages=[HI], tools=[TOOL]).text.splitlines()]
    assert lines[-2]["message"]["tool_calls"] == [call]
    assert (lines[-1]["done"], lines[-1]["done_reason"]) == (True, "stop")


def test_ollama_generate_is_a_question_unless_raw() -> None:
    engine = ScriptedEngine(said("a"), said("a"))
    app = scripted_app(engine)
    post(app, "/api/generate", prompt="Hi", system="S", format="json")
    post(app, "/api/generate", prompt="Hi", raw=True)
    assert engine.prompts[0] == encode_chat(TOKENIZER, [Message("system", "S"), Message("user", "Hi")])
    assert engine.prompts[1] == TOKENIZER.encode("Hi", bos=True)
    assert engine.params[0].structured_outputs is not None


def test_ollama_says_that_a_model_is_there() -> None:
    app = scripted_app(ScriptedEngine())
    assert post(app, "/api/generate", model="deepseek-coder-v2").json()["done_reason"] == "load"
    assert post(app, "/api/chat").json()["done_reason"] == "load"
    assert request(app, "HEAD", "/").status_code == 200
    assert request(app, "GET", "/api/version").json().keys() == {"version"}
    assert request(app, "GET", "/api/tags").json()["models"][0]["name"] == "tiny"
    assert post(app, "/api/show", model="nothing").status_code == 404


def test_s11_the_balance_has_deepseeks_shape() -> None:
    assert request(scripted_app(ScriptedEngine()), "GET", "/user/balance").json() == {
        "is_available": True,
        "balance_infos": [],
    }
