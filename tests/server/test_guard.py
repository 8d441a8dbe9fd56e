"""Strict JSON, and routes that are closed."""

from typing import Any

import pytest

from coderv2.server.errors import Refused
from coderv2.server.guard import DEEPEST, parse
from tests.server.fakes import ScriptedEngine, key, keyed_app, request, said


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"a": }', "at character 6"),
        (b'{"a": NaN}', "NaN is no number"),
        (b"[1, -Infinity]", "-Infinity is no number"),
        (b'{"metadata": {"a": 1e999}}', "1e999 is larger"),
        (b"[-1e999]", "-1e999 is larger"),
        (b"\xff", "utf-8"),
        (b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1), "nests deeper"),
        (b"[" * 10**6, "recursion|character"),
        (b"9" * 5000, "digits"),
    ],
)
def test_what_is_no_json_is_told_with_its_place(body: bytes, why: str) -> None:
    with pytest.raises(Refused, match=why) as caught:
        parse(body)
    assert (caught.value.failure.status, caught.value.failure.code) == (400, "invalid_json")


@pytest.mark.parametrize("value", [b"{}", b'{"a": "\\ud800"}', b"[" * DEEPEST + b"]" * DEEPEST, b"1e3"])
def test_all_other_json_passes(value: bytes) -> None:
    parse(value)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("application/vnd.api+json", 200),
        ("text/json", 415),
        ("application/jsonx", 415),
    ],
)
def test_a_body_must_say_that_it_is_json(kind: str, status: int) -> None:
    app = keyed_app(ScriptedEngine(said("a")), key("al"))
    headers = {"api-key": "secret-al", "content-type": kind}
    reply = request(app, "POST", "/v1/completions", content=b'{"prompt": "a"}', headers=headers)
    assert reply.status_code == status


def test_who_is_not_let_in_has_nothing_read() -> None:
    read: list[Any] = []

    async def body() -> Any:
        read.append(True)
        yield b'{"prompt": "a"}'

    reply = request(keyed_app(ScriptedEngine(), key("al")), "POST", "/v1/completions", content=body())
    assert reply.status_code == 401
    assert not read
