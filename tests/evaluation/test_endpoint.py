"""An OpenAI-compatible endpoint as a generator, well-behaved and not."""

import asyncio
import json
import time
from typing import Any

import pytest

from coderv2.errors import ContextTooLong, InvalidValue, ServiceError, Unsupported
from coderv2.evaluation.asking import Ask, Chat, Choose, Complete, Decoding, Infill, Place, Problem, Reply
from coderv2.evaluation.endpoint import Endpoint
from tests.evaluation.fakes import Answerer, chat_body, endpoint

PLACE = Place("sums", Problem("p", {}))


def ask(answer: Answerer, *asks: Ask, model: str | None = "m", **options: Any) -> list[Reply]:
    """The replies of an endpoint that answers so, all asked at once."""

    async def go() -> list[Reply]:
        async with endpoint(answer) as url:
            generator = Endpoint(url, model, first_wait=0.01, **options)
            try:
                return await asyncio.gather(*(generator.reply(one, PLACE) for one in asks))
            finally:
                await generator.close()

    return asyncio.run(go())


def always(body: bytes, status: int = 200, **headers: str) -> Answerer:
    async def answer(path: str, request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        return status, headers, body

    return answer


def text_body(text: object) -> bytes:
    return json.dumps({"choices": [{"text": text, "finish_reason": "length"}]}).encode()


def test_each_kind_of_ask_goes_where_it_belongs() -> None:
    seen: list[tuple[str, dict[str, Any]]] = []

    async def answer(path: str, request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        seen.append((path, request))
        return 200, {}, chat_body("hello") if "chat" in path else text_body("x = 1")

    warm = Decoding(7, temperature=0.5, top_p=0.9, stop=("\n",))
    replies = ask(answer, Chat.of("hi"), Complete("def f(", warm), Infill("a", "b"))
    assert [(r.text, r.finish_reason, r.tokens) for r in replies] == [
        ("hello", "stop", 3),
        ("x = 1", "length", None),
        ("x = 1", "length", None),
    ]
    by_kind = {
        ("chat" if "chat" in p else "infill" if "suffix" in b else "complete"): (p, b) for p, b in seen
    }
    assert by_kind["chat"][0] == "/v1/chat/completions"
    assert by_kind["chat"][1]["temperature"] == 0
    assert "seed" not in by_kind["chat"][1]
    assert by_kind["complete"][1]["stop"] == ["\n"]
    assert by_kind["complete"][1]["seed"] == PLACE.sample_seed
    assert by_kind["infill"][1]["suffix"] == "b"


def test_without_a_name_the_endpoint_is_asked_what_it_serves() -> None:
    async def answer(path: str, request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        if path == "/v1/models":
            return 200, {}, b'{"data": [{"id": "served"}]}'
        return 200, {}, chat_body(request["model"])

    assert ask(answer, Chat.of("hi"), model=None)[0].text == "served"


def test_an_endpoint_without_a_name_is_known_by_what_it_serves_and_where() -> None:
    """By its URL alone: what it served next went on from the old model's samples."""

    async def go() -> None:
        async with endpoint(always(b'{"data": [{"id": "served"}]}')) as url:
            generator = Endpoint(url)
            assert await generator.identity() == {"model": "served", "endpoint": f"{url}/v1"}
            await generator.close()

    asyncio.run(go())


def test_options_are_weighed_by_the_echoed_logprobs() -> None:
    async def answer(path: str, request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        assert request["echo"]
        assert request["logprobs"] == 1
        value = {" yes": -1.0, " no": -2.0}[request["prompt"].removeprefix("Is it?")]
        logprobs = {
            "token_logprobs": [None, -9.0, value, -50.0],
            "text_offset": [0, 3, 6, len(request["prompt"])],
        }
        return 200, {}, json.dumps({"choices": [{"text": "", "logprobs": logprobs}]}).encode()

    (reply,) = ask(answer, Choose("Is it?", (" no", " yes")))
    assert reply.text == " yes"
    assert reply.logprobs == (-2.0, -1.0)


@pytest.mark.parametrize(
    "body", [text_body("x"), json.dumps({"choices": [{"text": "x", "logprobs": None}]}).encode()]
)
def test_an_endpoint_without_prompt_logprobs_is_told_so(body: bytes) -> None:
    with pytest.raises(Unsupported, match="--prompt chat"):
        ask(always(body), Choose("Is it?", (" no", " yes")))


def test_an_endpoint_that_refuses_echo_is_told_the_same() -> None:
    with pytest.raises(Unsupported, match="drop echo"):
        ask(always(b'{"error": {"message": "drop echo"}}', 400), Choose("Is it?", (" no", " yes")))


def test_a_busy_endpoint_is_asked_again_when_it_said() -> None:
    times: list[float] = []

    async def answer(path: str, request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        times.append(time.monotonic())
        if len(times) == 1:
            return 429, {"retry-after": "0.3"}, b"slow down"
        return 200, {}, chat_body("ok")

    assert ask(answer, Chat.of("hi"))[0].text == "ok"
    assert times[1] - times[0] >= 0.29


def test_a_busy_endpoint_gets_fewer_requests_at_a_time_and_all_are_served() -> None:
    now = most_late = served = refused = 0

    async def answer(path: str, request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        nonlocal now, most_late, served, refused
        now += 1
        try:
            if now > 4:
                refused += 1
                return 429, {}, b"too many"
            if served > 30:
                most_late = max(most_late, now)
            await asyncio.sleep(0.005)
            served += 1
            return 200, {}, chat_body("ok")
        finally:
            now -= 1

    replies = ask(answer, *[Chat.of("hi")] * 60, in_flight=32)
    assert [reply.text for reply in replies] == ["ok"] * 60
    assert refused
    assert most_late <= 6


def test_an_endpoint_that_stays_busy_is_given_up_after_the_patience() -> None:
    with pytest.raises(ServiceError, match=r"busy \(429.*recorded"):
        ask(always(b"no", 429), Chat.of("hi"), patience=0.1)


@pytest.mark.parametrize(
    ("body", "status", "complaint"),
    [
        (b"<html>", 200, "not JSON"),
        (b"[1]", 200, "without choices"),
        (b"{}", 200, "without choices"),
        (b'{"choices": []}', 200, "no text"),
        (chat_body(7), 200, "no text"),
        (b"oops", 500, "status 500"),
    ],
)
def test_garbage_is_an_error_that_shows_it(body: bytes, status: int, complaint: str) -> None:
    with pytest.raises(ServiceError, match=complaint):
        ask(always(body, status), Chat.of("hi"))


def test_a_refusal_is_not_asked_again() -> None:
    with pytest.raises(InvalidValue, match="401: no such key"):
        ask(always(b"no such key", 401), Chat.of("hi"))


def test_a_prompt_that_is_too_long_is_an_error_of_its_own() -> None:
    with pytest.raises(ContextTooLong):
        ask(always(b'{"error": {"message": "the maximum context is 10"}}', 400), Chat.of("hi"))


def room_for(context: int, prompt: int, refusal: str, asked: list[int]) -> Answerer:
    """An endpoint that clips no reply: it refuses what does not fit, in these words."""

    async def answer(path: str, request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        asked.append(request["max_tokens"])
        if prompt + asked[-1] <= context:
            return 200, {}, chat_body("fits")
        said = refusal.format(context=context, prompt=prompt, both=prompt + asked[-1])
        return 400, {}, json.dumps({"error": {"message": said}}).encode()

    return answer


@pytest.mark.parametrize(
    ("refusal", "asked"),
    [
        (
            "This model's maximum context length is {context} tokens. However, you requested {both} tokens "
            "({prompt} in the messages, 4096 in the completion).",
            [4096, 48],
        ),
        (
            "'max_tokens' is too large: 4096. This model's maximum context length is {context} tokens and your "
            "request has {prompt} input tokens.",
            [4096, 48],
        ),
        ("exceeds the context", [4096, 2048, 1024, 512, 256, 128, 64, 32]),
    ],
)
def test_a_prompt_that_fits_gets_a_shorter_reply_where_prompt_and_reply_do_not(
    refusal: str, asked: list[int]
) -> None:
    """The problem was counted as one that the model has no room for."""
    seen: list[int] = []
    (reply,) = ask(room_for(2048, 2000, refusal, seen), Chat.of("hi", Decoding(4096)))
    assert (reply.text, seen) == ("fits", asked)


@pytest.mark.parametrize(
    "counts", ["you requested {both} tokens.", "your request has 2049 input tokens or more"]
)
def test_a_prompt_without_room_for_a_token_is_refused_at_the_second_request(counts: str) -> None:
    seen: list[int] = []
    refusal = f"This model's maximum context length is {{context}} tokens. However, {counts}"
    with pytest.raises(ContextTooLong, match="length is 2048"):
        ask(room_for(2048, 3000, refusal, seen), Chat.of("hi", Decoding(4096)))
    assert seen == [4096, 1]


def test_a_dead_endpoint_is_an_error_that_says_how_to_go_on() -> None:
    async def go() -> None:
        generator = Endpoint("http://127.0.0.1:9", "m", first_wait=0.01)
        try:
            await generator.reply(Chat.of("hi"), PLACE)
        finally:
            await generator.close()

    with pytest.raises(ServiceError, match=r"no answer.*5 attempts.*goes on"):
        asyncio.run(go())


def test_a_key_is_sent_and_a_url_must_be_one() -> None:
    with pytest.raises(InvalidValue, match="must be a URL"):
        Endpoint("localhost:8000")
