"""Which host names are ours."""

import asyncio
from typing import Any

import pytest

from coderv2.server.errors import Refused
from coderv2.server.hosts import Hosts


def _passes(*hosts: bytes, allowed: tuple[str, ...] = ()) -> bool:
    passed: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope)

    async def nothing(*arguments: Any) -> Any:
        raise AssertionError("nothing is read or sent")

    scope = {"type": "http", "headers": [(b"host", host) for host in hosts]}
    asyncio.run(Hosts(app, allowed)(scope, nothing, nothing))
    return bool(passed)


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"LOCALHOST.:80",
        b"127.0.0.1",
        b"10.1.2.3:8000",
        b"[::1]",
        b"[fe80::1]:80",
        b"",
        b"me.lan",
    ],
)
def test_addresses_this_machine_and_allowed_names_pass(host: bytes) -> None:
    assert _passes(host, allowed=("ME.lan.",))
    assert _passes()


@pytest.mark.parametrize(
    "hosts",
    [
        (b"evil.example",),
        (b"localhost.evil.example",),
        (b"localhost:x",),
        (b"1.2.3",),
        (b"localhost", b"localhost"),
    ],
)
def test_other_names_and_two_at_once_are_refused(hosts: tuple[bytes, ...]) -> None:
    with pytest.raises(Refused, match="--allow-host"):
        _passes(*hosts)
