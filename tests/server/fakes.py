"""An engine with a queue of scripted replies, and ways to talk to an app over it."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import httpx
from fastapi import FastAPI

from coderv2.engine.request import Delta, SamplingParams, TokenLogprob
from coderv2.engine.stats import EngineStats
from coderv2.server.app import create_app, simple_app
from coderv2.server.backend import Backend
from coderv2.server.caller import Accounts
from coderv2.server.defaults import SamplingDefaults
from coderv2.server.door import Door
from coderv2.server.keys import Key, Keys, digest_of
from coderv2.server.models import Models
from coderv2.text.tokenizer import Tokenizer
from tests.tiny_tokenizer import tiny_tokenizer

Script = Sequence[Delta | Exception]


class ScriptedEngine:
    """Each prompt gets the next script: deltas, or an error to raise at that point."""

    def __init__(self, *scripts: Script, refuses: Exception | None = None, max_model_len: int = 4096) -> None:
        self.max_model_len = max_model_len
        self.prompts: list[list[int]] = []
        self.params: list[SamplingParams] = []
        self.options: list[dict[str, Any]] = []
        """tenant, priority and deadline of each."""
        self.closed = 0
        self.alive = True
        self._scripts = deque(scripts)
        self._refuses = refuses

    def stream(
        self, prompt_ids: Sequence[int], params: SamplingParams, **options: Any
    ) -> AsyncGenerator[Delta, None]:
        if self._refuses:
            raise self._refuses
        self.options.append(options)
        self.prompts.append(list(prompt_ids))
        self.params.append(params)
        return self._play(self._scripts.popleft())

    async def _play(self, script: Script) -> AsyncGenerator[Delta, None]:
        try:
            for item in script:
                await asyncio.sleep(0)
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.closed += 1

    def healthy(self) -> bool:
        return self.alive

    def stats(self) -> EngineStats:
        return EngineStats(1, 2, 3, 10, 4, 100, 40, 0, 0)


def said(*texts: str, index: int = 0, finish: str = "stop", logprobs: bool = False) -> list[Delta]:
    """One answer of a token per text."""
    places = [(TokenLogprob(65 + i, -0.5, 1, ((65 + i, -0.5), (70, -2.0))),) for i in range(len(texts))]
    return [
        Delta(
            "r",
            index,
            text,
            (65 + place,),
            finish_reason=finish if place == len(texts) - 1 else None,
            logprobs=places[place] if logprobs else None,
        )
        for place, text in enumerate(texts)
    ]


def keyed_app(engine: ScriptedEngine, *keys: Key) -> FastAPI:
    """Lets in these keys only; the secret of key NAME is `secret-NAME`."""
    models = Models.of("tiny", Backend(engine, tiny_tokenizer()))
    return create_app(Door(models, Accounts(Keys(keys))))


def key(name: str, **limits: Any) -> Key:
    return Key(name, digest_of(f"secret-{name}"), **limits)


def scripted_app(
    engine: ScriptedEngine, tokenizer: Tokenizer | None = None, defaults: SamplingDefaults | None = None
) -> FastAPI:
    return simple_app(engine, tokenizer or tiny_tokenizer(), "tiny", defaults)


def request(app: FastAPI, method: str, path: str, **options: Any) -> httpx.Response:
    """One request straight into the app."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **options)

    return asyncio.run(send())


def post(app: FastAPI, path: str, **body: Any) -> httpx.Response:
    # json.dumps escapes lone surrogates, as clients do; httpx's own encoding cannot.
    headers = {"content-type": "application/json"}
    return request(app, "POST", path, content=json.dumps(body), headers=headers)


def events_of(response: httpx.Response) -> list[Any]:
    """The JSON of each event; [DONE] as that text."""
    parts = response.text.removesuffix("\n\n").split("\n\n")
    data = [part.removeprefix("data: ") for part in parts if not part.startswith(":")]
    return [text if text == "[DONE]" else json.loads(text) for text in data]


def lines_of(response: httpx.Response) -> list[Any]:
    """The JSON of each line."""
    return [json.loads(line) for line in response.text.splitlines()]


def named_events_of(response: httpx.Response) -> list[Any]:
    """The JSON of each event, whose name must be its type."""
    events = []
    for part in response.text.removesuffix("\n\n").split("\n\n"):
        if not part.startswith(":"):
            name, data = part.split("\n")
            events.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {events[-1]['type']}"
    return events
