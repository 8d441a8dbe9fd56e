"""One other server: what it has, whether it lives, and the answers that it streams."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import httpx

from coderv2.errors import InvalidValue, ServiceError
from coderv2.server.upstream import BEGIN_SECONDS
from coderv2.server.upstream.flavour import Flavour, flavour

CONNECT_SECONDS, SILENT_SECONDS = 5.0, 600.0
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds for which a server that failed is left alone, doubling."""


class Unreachable(Exception):
    """It did not begin to answer; another may."""


class Late(Unreachable):
    """It took the request, and did not begin to answer in time."""


class Client:
    """One server."""

    def __init__(
        self,
        url: str,
        key: str | None,
        clock: Callable[[], float] = time.monotonic,
        *,
        begin_seconds: float = BEGIN_SECONDS,
    ) -> None:
        self._begin_seconds = begin_seconds
        self.url = url.rstrip("/").removesuffix("/v1")
        self.model = ""
        self.flavour: Flavour = flavour("")
        self.max_model_len: int | None = None
        self.running = 0
        self.known = False
        """Whether it has told what it has."""
        self._options: dict[str, Any] = {
            "headers": {
                "content-type": "application/json",
                **({"authorization": f"Bearer {key}"} if key else {}),
            },
            "timeout": httpx.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS),
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=0),
            "trust_env": False,
        }
        self._http = httpx.AsyncClient(**self._options)
        self._clock = clock
        self._pause = FIRST_PAUSE
        self._rests_until = 0.0

    @property
    def alive(self) -> bool:
        """Whether it is worth a try now."""
        return self._clock() >= self._rests_until

    def failed(self) -> None:
        """Leaves it alone for a while; it may come back with another model, so it is asked again."""
        self.known = False
        self._rests_until = self._clock() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    async def look(self) -> None:
        """Asks what it has. Raises Unreachable."""
        try:
            # Connections belong to one event loop, and this may be asked from another.
            async with httpx.AsyncClient(**self._options) as http:
                response = await http.get(f"{self.url}/v1/models", timeout=CONNECT_SECONDS)
            response.raise_for_status()
            card = response.json()["data"][0]
            self.model, self.flavour = str(card["id"]), flavour(str(card.get("owned_by")))
            self.max_model_len = card.get("max_model_len")
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            raise Unreachable(f"{self.url}: {error!r}") from None
        self.known = True

    async def events(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """What `/v1/completions` streams.

        Raises Unreachable before it began to answer, InvalidValue for a request that it refuses, ServiceError later.
        """
        self.running += 1
        try:
            async with aclosing(self._streamed(body)) as events:
                try:
                    async with asyncio.timeout(self._begin_seconds):
                        first = await anext(events, None)
                except TimeoutError:
                    raise Late(f"{self.url}: no answer began within {self._begin_seconds:g} s") from None
                if first is not None:
                    yield first
                async for event in events:
                    yield event
        finally:
            self.running -= 1

    async def _streamed(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        begun = False
        try:
            # As ASCII, which has a form for half a character, too.
            content = json.dumps(body).encode()
            async with self._http.stream("POST", f"{self.url}/v1/completions", content=content) as response:
                await _check(response)
                async for data in _data(response):
                    if data != b"[DONE]":
                        event = json.loads(data)
                        if event.get("error"):  # some send null with each
                            failed = ServiceError if begun else Unreachable
                            raise failed(f"{self.url}: {event['error']!r:.300}")
                        begun, self._pause = True, FIRST_PAUSE
                        yield event
        except (httpx.HTTPError, ValueError) as error:
            if begun:
                raise ServiceError(f"{self.url}: {error!r}") from None
            raise Unreachable(f"{self.url}: {error!r}") from None


async def _data(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """Of each event. Lines end with line feeds alone: httpx's own reading also ends them at U+2028 and the like."""
    rest = b""
    async for piece in response.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line.removeprefix(b"data:").strip()


async def _check(response: httpx.Response) -> None:
    if response.status_code == 200:
        return
    text = (await response.aread())[:2000].decode("utf-8", "replace")
    if response.status_code in (400, 413, 422):
        raise InvalidValue(f"the server behind this one refuses it: {text[:300]}")
    raise Unreachable(f"{response.url}: {response.status_code} {text[:200]}")
