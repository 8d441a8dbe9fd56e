"""HTTP clients of one connection each."""

import asyncio

import httpx
import pytest

from coderv2.evaluation.clients import Clients
from tests.evaluation.fakes import chat_body, endpoint


def test_each_request_in_flight_has_a_connection_which_the_next_one_takes_over() -> None:
    async def go() -> tuple[int, int]:
        together = asyncio.Event()
        waiting = 0

        async def answer(path, body):  # type: ignore[no-untyped-def]
            nonlocal waiting
            waiting += 1
            if waiting >= 3:
                together.set()
            await together.wait()
            return 200, {}, chat_body("hi")

        async with endpoint(answer) as url:
            clients = Clients({}, httpx.Timeout(5.0))
            await asyncio.gather(*(clients.request("POST", url, {}) for _ in range(3)))
            most = len(clients._all)
            for _ in range(5):
                assert (await clients.request("POST", url, {})).status_code == 200
            await clients.close()
        return most, len(clients._all)

    assert asyncio.run(go()) == (3, 3)


def test_a_failed_request_gives_its_client_back() -> None:
    async def go() -> int:
        clients = Clients({}, httpx.Timeout(1.0))
        for _ in range(2):
            with pytest.raises(httpx.ConnectError):
                await clients.request("GET", "http://127.0.0.1:9", None)
        await clients.close()
        return len(clients._all)

    assert asyncio.run(go()) == 1


def test_half_a_character_in_a_prompt_is_sent() -> None:
    """It ended the run with an UnicodeEncodeError."""

    async def go() -> list[object]:
        heard = []

        async def answer(path, body):  # type: ignore[no-untyped-def]
            heard.append(body)
            return 200, {}, chat_body("hi")

        async with endpoint(answer) as url:
            clients = Clients({}, httpx.Timeout(5.0))
            assert (await clients.request("POST", url, {"prompt": "\ud83d"})).status_code == 200
            await clients.close()
        return heard

    assert asyncio.run(go()) == [{"prompt": "\ud83d"}]
