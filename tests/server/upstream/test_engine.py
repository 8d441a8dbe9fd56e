"""Other servers as one engine."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from coderv2.engine.params import SamplingParams
from coderv2.engine.request import Delta
from coderv2.errors import ContextTooLong, InvalidValue, NoAnswer, QueueFull, ServiceError
from coderv2.server.app import create_app
from coderv2.server.backend import Backend, tokens_of
from coderv2.server.door import Door
from coderv2.server.models import Models
from coderv2.server.upstream import launch
from coderv2.server.upstream.engine import Upstreams, check_urls, wait_for_one
from tests.server.conftest import Served
from tests.server.fakes import ScriptedEngine, events_of, post, said, scripted_app
from tests.server.running import running
from tests.server.upstream.standin import StandIn
from tests.tiny_tokenizer import tiny_tokenizer

PROMPT = list(range(10, 210))
NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _upstreams(stack: ExitStack, *servers: StandIn, dead: int = 0, key: str | None = None) -> Upstreams:
    urls = [NOBODY] * dead + [stack.enter_context(running(server.app)) for server in servers]
    return Upstreams(urls, tiny_tokenizer(), 1000, key)


def _deltas(upstreams: Upstreams, prompt: list[int] = PROMPT, **params: Any) -> list[Delta]:
    async def collect() -> list[Delta]:
        stream = upstreams.stream(prompt, SamplingParams(**{"max_tokens": 9} | params))
        return [delta async for delta in stream]

    return asyncio.run(collect())


def test_deltas_tell_the_text_and_the_counts_of_the_other_server(stack: ExitStack) -> None:
    server = StandIn()
    deltas = _deltas(_upstreams(stack, server, key="theirs"), temperature=0, top_k=5)
    assert "".join(delta.text for delta in deltas) == "ab"
    assert deltas[0].token_ids == (65,)
    assert sum(map(tokens_of, deltas)) == 7
    assert (deltas[-1].finish_reason, deltas[-1].num_cached_tokens) == ("stop", 4)
    (body,) = server.bodies
    assert (body["prompt"], body["model"], body["top_k"]) == (PROMPT, "their-model", 5)
    assert body["stream_options"] == {"include_usage": True}
    assert server.keys == ["Bearer theirs"]


def test_an_answer_without_a_limit_has_the_room_that_the_context_leaves(stack: ExitStack) -> None:
    server = StandIn()  # silence would mean 16 tokens there
    _deltas(_upstreams(stack, server), max_tokens=None)
    assert server.bodies[0]["max_tokens"] == 1000 - len(PROMPT)


def test_a_chat_without_a_limit_is_not_cut_by_the_server_behind(served: Served) -> None:
    tokenizer = served.offline.engine.tokenizer
    upstreams = Upstreams([served.url], tokenizer, 256)
    app = create_app(Door(Models.of("front", Backend(upstreams, tokenizer))))
    body = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
    ours = post(app, "/v1/chat/completions", **body).json()
    theirs = httpx.post(f"{served.url}/v1/chat/completions", json=body).json()
    assert ours["choices"] == theirs["choices"]
    assert ours["usage"]["completion_tokens"] == theirs["usage"]["completion_tokens"] > 16


def test_without_their_counts_the_text_is_counted(stack: ExitStack) -> None:
    deltas = _deltas(
        _upstreams(stack, StandIn("me", texts=("def ", "f"), usage=False)), tiny_tokenizer().encode("a")
    )
    assert sum(map(tokens_of, deltas)) == len(tiny_tokenizer().encode("def f"))


def test_dead_servers_are_skipped_before_the_first_byte_and_left_alone(stack: ExitStack) -> None:
    server = StandIn()
    upstreams = _upstreams(stack, server, dead=2)
    for _ in range(3):
        assert _deltas(upstreams)[-1].finish_reason == "stop"
    assert [client.alive for client in upstreams.clients] == [False, False, True]
    assert len(server.bodies) == 3


def test_a_silent_server_is_passed_over_and_where_all_are_the_client_is_told_504(stack: ExitStack) -> None:
    silent, well = StandIn(), StandIn()
    silent.hangs = 30.0
    urls = [stack.enter_context(running(server.app)) for server in (silent, well)]
    both = Upstreams(urls, tiny_tokenizer(), 1000, begin_seconds=0.3)
    assert _deltas(both)[-1].finish_reason == "stop"
    assert [client.alive for client in both.clients] == [False, True]
    alone = Upstreams([urls[0], NOBODY], tiny_tokenizer(), 1000, begin_seconds=0.3)
    with pytest.raises(NoAnswer, match=r"began to answer within 0\.3 seconds"):
        _deltas(alone)
    app = create_app(Door(Models.of("m", Backend(alone, tiny_tokenizer()))))
    for stream in (False, True):
        reply = post(app, "/v1/completions", prompt="a", max_tokens=3, stream=stream)
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "upstream_timeout")
    reply = post(app, "/v1/messages", model="m", max_tokens=3, messages=[{"role": "user", "content": "a"}])
    assert (reply.status_code, reply.json()["error"]["type"]) == (504, "timeout_error")


def test_a_server_that_was_started_again_with_another_model_is_asked_for_its_name(stack: ExitStack) -> None:
    server = StandIn()
    upstreams = _upstreams(stack, server)
    _deltas(upstreams)
    server.model = "another"
    with pytest.raises(QueueFull):
        _deltas(upstreams)
    assert _deltas(upstreams)[-1].finish_reason == "stop"
    assert server.bodies[-1]["model"] == "another"


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"stop_reason": "END"}, "END"),
        ({"stop_reason": None}, None),
        ({"matched_stop": "END"}, "END"),
        ({"matched_stop": 7}, 7),
        ({"matched_stop": tiny_tokenizer().eos_id}, None),
        ({}, None),
    ],
)
def test_the_stop_that_was_met_is_told_in_vllms_word_or_sglangs(
    stack: ExitStack, told: dict[str, Any], reason: str | int | None
) -> None:
    server = StandIn()
    server.stopped = told
    assert _deltas(_upstreams(stack, server))[-1].stop_reason == reason


def test_the_stop_sequence_that_was_met_comes_through_a_server_of_ours(stack: ExitStack) -> None:
    behind = ScriptedEngine([Delta("r", 0, "a", (65,), finish_reason="stop", stop_reason="END")])
    url = stack.enter_context(running(scripted_app(behind)))
    app = create_app(
        Door(Models.of("front", Backend(Upstreams([url], tiny_tokenizer(), 64), tiny_tokenizer())))
    )
    body = {"max_tokens": 9, "stop_sequences": ["END"], "messages": [{"role": "user", "content": "a"}]}
    reply = post(app, "/v1/messages", **body).json()
    assert (reply["stop_reason"], reply["stop_sequence"]) == ("stop_sequence", "END")


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\r", "\x1c"])
def test_an_answer_may_hold_any_character_that_ends_lines_elsewhere(stack: ExitStack, mark: str) -> None:
    url = stack.enter_context(running(scripted_app(ScriptedEngine(said("a", mark, "b")))))
    assert "".join(delta.text for delta in _deltas(Upstreams([url], tiny_tokenizer(), 1000))) == f"a{mark}b"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_cannot_now_is_passed_over(stack: ExitStack, status: int) -> None:
    sick, well = StandIn(), StandIn()
    sick.status = status
    assert _deltas(_upstreams(stack, sick, well))[-1].finish_reason == "stop"
    assert (len(sick.bodies), len(well.bodies)) == (1, 1)


def test_when_none_answers_it_is_said_to_pass(stack: ExitStack) -> None:
    with pytest.raises(QueueFull, match="none of the servers"):
        _deltas(_upstreams(stack, dead=2))


def test_what_a_server_refuses_is_the_callers_fault_and_not_tried_again(stack: ExitStack) -> None:
    picky, other = StandIn(), StandIn()
    picky.status = 400
    with pytest.raises(InvalidValue, match="refuses it"):
        _deltas(_upstreams(stack, picky, other))
    assert not other.bodies


def test_a_failure_after_the_first_byte_is_not_tried_again(stack: ExitStack) -> None:
    breaking, other = StandIn(), StandIn()
    breaking.breaks_after = 1
    with pytest.raises(ServiceError, match="out of memory"):
        _deltas(_upstreams(stack, breaking, other))
    assert not other.bodies


def test_prompts_that_start_alike_go_to_the_same_server(stack: ExitStack) -> None:
    servers = [StandIn(), StandIn(), StandIn()]
    upstreams = _upstreams(stack, *servers)
    upstreams.clients[0].running += 1  # so that the first prompt goes elsewhere
    _deltas(upstreams, [7] * 130)
    upstreams.clients[0].running -= 1
    for _ in range(3):
        _deltas(upstreams, [7] * 130 + [8])
    assert sorted(len(server.bodies) for server in servers) == [0, 0, 4]
    upstreams.clients[1].running += 100  # too many others there
    _deltas(upstreams, [7] * 130 + [9])
    assert len(servers[0].bodies) == 1


def test_a_prompt_that_is_too_long_is_refused_here(stack: ExitStack) -> None:
    with pytest.raises(ContextTooLong, match=r"This model's maximum context length is 1000 tokens"):
        Upstreams([NOBODY], tiny_tokenizer(), 1000).stream([1] * 1000, SamplingParams())


def test_one_that_answers_is_enough_to_start(stack: ExitStack) -> None:
    upstreams = _upstreams(stack, StandIn(), dead=1)
    asyncio.run(wait_for_one(upstreams, 5))
    assert upstreams.max_model_len == 1000
    with pytest.raises(InvalidValue, match="no upstream answers"):
        asyncio.run(wait_for_one(Upstreams([NOBODY], tiny_tokenizer(), 1000), 0))
    with pytest.raises(InvalidValue, match="must begin with http"):
        check_urls(["localhost:8000"])


def test_an_engine_that_ended_while_it_started_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an hour passed before `serve --engine` said that nothing answers."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setitem(launch._COMMANDS, "vllm", lambda *_: [sys.executable, "-c", "raise SystemExit(3)"])
    started = launch.Running(launch.Launch("vllm", "m"))
    upstreams = Upstreams([started.url], tiny_tokenizer(), 1000)
    with pytest.raises(InvalidValue, match="the engine ended with 3 before it answered"):
        asyncio.run(asyncio.wait_for(wait_for_one(upstreams, 600, [started]), 60))


def test_every_dialect_works_over_another_server_of_ours(served: Served) -> None:
    tokenizer = served.offline.engine.tokenizer
    upstreams = Upstreams([served.url], tokenizer, 256)
    models = Models.of("front", Backend(upstreams, tokenizer))
    hole = {"prompt": "def f(", "suffix": "):\n", "max_tokens": 9, "temperature": 0}
    chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 9, "temperature": 0}
    with running(create_app(Door(models))) as url, served.client() as direct:
        front = served.client().with_options(base_url=f"{url}/v1")
        with front:
            ours = front.completions.create(model="front", **hole)
            theirs = direct.completions.create(model="tiny", **hole)
            assert ours.choices == theirs.choices
            assert ours.usage is not None
            assert theirs.usage is not None
            assert ours.usage.completion_tokens == theirs.usage.completion_tokens
            talked = front.chat.completions.create(model="front", **chat)
            assert talked.choices == direct.chat.completions.create(model="tiny", **chat).choices


def test_a_stream_through_the_door_has_the_counts(stack: ExitStack) -> None:
    upstreams = _upstreams(stack, StandIn())
    app = create_app(Door(Models.of("front", Backend(upstreams, tiny_tokenizer()))))
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *_, usage, done = events_of(post(app, "/v1/completions", prompt=PROMPT, **options))
    assert done == "[DONE]"
    assert usage["usage"]["completion_tokens"] == 7
    assert usage["usage"]["prompt_cache_hit_tokens"] == 4


def test_half_a_character_in_a_request_reaches_the_other_server(stack: ExitStack) -> None:
    """It counted as a failure of that server, which was then left alone."""
    server = StandIn()
    upstreams = _upstreams(stack, server)
    assert "".join(delta.text for delta in _deltas(upstreams, stop=["\ud800"])) == "ab"
    assert server.bodies[0]["stop"] == ["\ud800"]
    assert upstreams.clients[0].alive
