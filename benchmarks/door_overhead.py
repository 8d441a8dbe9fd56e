"""What the server adds to the engine, and what clients that leave leave behind.

Four measurements: a request's time from socket to socket at 200 requests a second, the server on one core with an
engine that answers at once, its clients on another; ten clients a second that hang up in the middle, for a minute; how
soon a hole that waits is gone when a newer one of its session comes, beside a decode step; and the time to the first
token that `openai` sees on a warm prefix, beside that of the engine asked directly.
"""

import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

import httpx
import openai
import uvicorn

from benchmarks.record import record
from coderv2 import paths
from coderv2.engine.llm import LLM
from coderv2.engine.params import SamplingParams
from coderv2.engine.request import Delta
from coderv2.engine.stats import EngineStats
from coderv2.engine.worker import Worker
from coderv2.server.app import create_app
from coderv2.server.backend import Backend
from coderv2.server.caller import Accounts
from coderv2.server.connections import ConnectionLimits
from coderv2.server.door import Door
from coderv2.server.keys import Key, Keys, digest_of
from coderv2.server.listen import bind, config_for, settle
from coderv2.server.models import Models
from coderv2.text.tokenizer import Tokenizer

RATE, SECONDS = 200, 20
ABORTS, ABORT_SECONDS = 10, 60
ROUNDS = 30
SECRET = "sk-benchmark"
CHAT = {
    "model": "deepseek-coder-v2",
    "messages": [{"role": "user", "content": "Write a function that adds two numbers."}],
    "max_tokens": 8,
    "temperature": 0,
    "stream": True,
}
PREFIX = "def add(first, second):\n    return first + second\n\n\n" * 30


class AtOnce:
    """An engine whose answers of eight tokens are there before they are asked for."""

    max_model_len = 4096

    async def stream(
        self, prompt_ids: Sequence[int], params: SamplingParams, **others: Any
    ) -> AsyncGenerator[Delta, None]:
        """Eight deltas."""
        for place in range(8):
            yield Delta("r", 0, "word ", (65,), finish_reason="stop" if place == 7 else None)

    def healthy(self) -> bool:
        """Always."""
        return True

    def stats(self) -> EngineStats:
        """Nothing to count."""
        return EngineStats(0, 0, 0, 0, 0, 0, 0, 0, 0)


def main(names: Sequence[str] = ()) -> None:
    """The named ones, or all; each is a record of its own."""
    for name in names or MEASUREMENTS:
        rows = [{"measured": what, "value": value} for what, value in MEASUREMENTS[name]()]
        record(f"door_{name}", rows, ["fastapi", "uvicorn", "openai"])


def overhead() -> list[tuple[str, float]]:
    """Milliseconds of a streamed chat of eight tokens, open loop."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve_at_once, args=(there,), daemon=True)
    server.start()
    url = here.recv()
    _pin(1)
    taken = asyncio.run(_ask_steadily(url))
    server.terminate()
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    cuts = statistics.quantiles(taken, n=100)
    told = {"median": cuts[49], "p95": cuts[94], "p99": cuts[98]}
    return [(f"request at {RATE}/s, {name}, ms", 1000 * value) for name, value in told.items()]


def _pin(core: int) -> None:
    os.sched_setaffinity(0, {core % (os.cpu_count() or 1)})


def _serve_at_once(pipe: Connection) -> None:
    _pin(0)
    models = Models.of("bench", Backend(AtOnce(), Tokenizer.from_folder(paths.bundled_model())))
    keys = Keys([Key(f"key{number}", digest_of(f"{SECRET}{number}")) for number in range(20)])
    app = create_app(Door(models, Accounts(keys)))
    bound = bind("127.0.0.1", 0)
    bound.listen(512)
    settle()
    pipe.send(f"http://127.0.0.1:{bound.getsockname()[1]}")
    uvicorn.Server(config_for(app, ConnectionLimits())).run(sockets=[bound])


async def _ask_steadily(url: str) -> list[float]:
    """Seconds of each request, with a client that does as little as it can."""
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps(CHAT).encode()
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {SECRET}7\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body
    idle: deque[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = deque()
    taken: list[float] = []

    async def ask() -> None:
        began = time.perf_counter()
        while idle and idle[0][0] < began - 2:  # the server closes what is idle for longer
            idle.popleft()[2].close()
        _, reader, writer = idle.pop() if idle else (0.0, *await asyncio.open_connection(host, int(port)))
        writer.write(request)
        reply = await reader.readuntil(b"\r\n0\r\n\r\n")
        assert reply.startswith(b"HTTP/1.1 200"), reply
        assert b"[DONE]" in reply, reply
        taken.append(time.perf_counter() - began)
        idle.append((time.perf_counter(), reader, writer))

    for _ in range(RATE):  # warm
        await ask()
    taken.clear()
    tasks, began = [], time.perf_counter()
    for number in range(RATE * SECONDS):
        await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
        tasks.append(asyncio.create_task(ask()))
    await asyncio.gather(*tasks)
    return taken


def aborts() -> list[tuple[str, float]]:
    """What is still running when the last of them has hung up, and how long the slowest took to be gone."""
    worker, url, stop = _serve_bundled()
    slowest = 0.0
    for number in range(ABORTS * ABORT_SECONDS):
        began = time.perf_counter()
        body = CHAT | {
            "max_tokens": 500,
            "messages": [{"role": "user", "content": f"{number}: " + PREFIX[:200]}],
        }
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as reply:
            next(reply.iter_bytes(1 + number % 900))
        left = time.perf_counter()
        while worker.stats().running or worker.stats().waiting:
            time.sleep(0.001)
        slowest = max(slowest, time.perf_counter() - left)
        time.sleep(max(0.0, began + 1 / ABORTS - time.perf_counter()))
    stats = worker.stats()
    stop()
    return [
        ("running after the aborts", stats.running + stats.waiting),
        ("pages held after the aborts", stats.pages_used),
        ("slowest to be gone, ms", 1000 * slowest),
    ]


def superseded() -> list[tuple[str, float]]:
    """Holes that wait behind a long answer, which has the only place, until a newer one comes."""
    worker, url, stop = _serve_bundled(max_num_seqs=1)
    gone, step = asyncio.run(_supersede(worker, url))
    stop()
    return [
        ("a decode step, median, ms", 1000 * step),
        ("older hole told by HTTP that it gave way, median, ms", 1000 * statistics.median(gone)),
        ("older hole told by HTTP that it gave way, slowest, ms", 1000 * max(gone)),
    ]


async def _supersede(worker: Worker, url: str) -> tuple[list[float], float]:
    """Seconds from the newer one's start to the older one's end, each; and those of a decode step."""
    hole = {"prompt": PREFIX[:200], "suffix": PREFIX[:100], "max_tokens": 8}
    gone: list[float] = []
    steps: list[float] = []
    async with httpx.AsyncClient(base_url=url, headers={"x-session-id": "editor"}, timeout=60) as client:
        for _ in range(ROUNDS):
            async with client.stream(
                "POST", "/v1/chat/completions", json=CHAT | {"max_tokens": 1000}
            ) as long:
                lines = (line async for line in long.aiter_lines() if line)
                times = [(await anext(lines), time.perf_counter())[1] for _ in range(10)]
                steps += [later - earlier for earlier, later in pairwise(times[2:])]
                older = asyncio.create_task(client.post("/v1/completions", json=hole))
                while not worker.stats().waiting:
                    await asyncio.sleep(0)
                began = time.perf_counter()
                newer = asyncio.create_task(client.post("/v1/completions", json=hole))
                assert (await older).status_code == 499
                gone.append(time.perf_counter() - began)
                newer.cancel()
            while worker.stats().running or worker.stats().waiting:
                await asyncio.sleep(0.001)
    return gone, statistics.median(steps)


def _serve_bundled(max_num_seqs: int | None = None) -> tuple[Worker, str, Any]:
    worker = Worker(LLM(paths.bundled_model(), max_num_seqs=max_num_seqs).engine)
    worker.start()
    tokenizer = Tokenizer.from_folder(paths.bundled_model())
    app = create_app(Door(Models.of("bench", Backend(worker, tokenizer))))
    bound = bind("127.0.0.1", 0)
    bound.listen(512)
    server = uvicorn.Server(config_for(app, ConnectionLimits()))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()

    def stop() -> None:
        server.should_exit = True
        thread.join()
        worker.stop()

    return worker, f"http://127.0.0.1:{bound.getsockname()[1]}", stop


def first_token() -> list[tuple[str, float]]:
    """Medians over turns that take turns, on a prefix that both find in the cache."""
    worker, url, stop = _serve_bundled()
    ids = Tokenizer.from_folder(paths.bundled_model()).encode(PREFIX, bos=True)
    own: list[float] = []
    seen: list[float] = []
    with openai.OpenAI(base_url=f"{url}/v1", api_key="EMPTY", max_retries=0) as client:
        for _ in range(ROUNDS):
            own.append(asyncio.run(_direct(worker, ids)))
            began = time.perf_counter()
            with client.completions.create(
                model="default", prompt=PREFIX, max_tokens=4, temperature=0, stream=True
            ) as stream:
                next(iter(stream))
                seen.append(time.perf_counter() - began)
    stop()
    engine, through = 1000 * statistics.median(own[5:]), 1000 * statistics.median(seen[5:])
    return [
        ("first token, engine, median, ms", engine),
        ("first token, openai client, median, ms", through),
        ("first token, difference, ms", through - engine),
    ]


async def _direct(worker: Worker, ids: list[int]) -> float:
    began = time.perf_counter()
    stream = worker.stream(ids, SamplingParams(temperature=0, max_tokens=4))
    await anext(stream)
    taken = time.perf_counter() - began
    async for _ in stream:
        pass
    return taken


MEASUREMENTS = {
    "overhead": overhead,
    "aborts": aborts,
    "superseded": superseded,
    "first_token": first_token,
}

if __name__ == "__main__":
    main(sys.argv[1:])
