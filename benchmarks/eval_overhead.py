"""What an evaluation costs of itself: a fake endpoint in another process, 64 samples in flight, records on disk.

The endpoint answers at once, so that all of the time between two samples is the runner's and the client's: prompt,
request, reply, score, record. Beside it stands the same client in a bare loop, which is the least that HTTP takes here.
"""

import asyncio
import json
import multiprocessing
import socket
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from benchmarks.record import record
from coderv2.evaluation.asking import Ask, Chat, Exchange, Place, Problem, Style
from coderv2.evaluation.data import Data
from coderv2.evaluation.endpoint import Endpoint
from coderv2.evaluation.run import Settings, run
from coderv2.evaluation.task import Score, Scored, Tools, verdict
from coderv2.evaluation.toolbox import Toolbox

SAMPLES, IN_FLIGHT = 2000, 64
_REPLY = {"choices": [{"message": {"content": "#### 4" + " and so on" * 50}, "finish_reason": "stop"}]}
_BODY = json.dumps(_REPLY).encode()


@dataclass(frozen=True, kw_only=True)
class Numbers(Scored):
    """Prompts of a usual length, a score that takes no time."""

    def problems(self, data: Data) -> Iterable[Problem]:
        return (Problem(str(n), {}) for n in range(SAMPLES))

    def prompt(self, problem: Problem, style: Style) -> Ask:
        return Chat.of(f"{problem.id}: " + "a question of some length " * 40)

    async def score(self, problem: Problem, exchange: Exchange, tools: Tools) -> Score:
        return verdict(exchange.reply.text.startswith("#### 4"), "4")

    def canonical(self, problem: Problem, style: Style) -> str:
        return "#### 4"


def main() -> None:
    """Milliseconds a sample, whole and bare."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(256)
        server = multiprocessing.get_context("fork").Process(target=_serve, args=(listener,), daemon=True)
        server.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        bare = asyncio.run(_bare(url))
        whole = asyncio.run(_whole(url))
        server.terminate()
        server.join()
    rows: list[dict[str, Any]] = [
        {"what": "eval run", "ms a sample": whole / SAMPLES * 1e3, "target, ms": 5.0},
        {"what": "the same requests alone", "ms a sample": bare / SAMPLES * 1e3, "target, ms": "-"},
    ]
    record("eval_overhead", rows, ["httpx"])


async def _whole(url: str) -> float:
    endpoint, toolbox = Endpoint(url, "fake", in_flight=IN_FLIGHT), Toolbox()
    with tempfile.TemporaryDirectory() as scratch:
        folder, begin = Path(scratch), time.perf_counter()
        settings = Settings(in_flight=IN_FLIGHT, progress=False)
        await run(Numbers(name="numbers", title="Numbers"), Data(folder), endpoint, folder, settings, toolbox)
        taken = time.perf_counter() - begin
    await endpoint.close()
    toolbox.close()
    return taken


async def _bare(url: str) -> float:
    endpoint, task = Endpoint(url, "fake", in_flight=IN_FLIGHT), Numbers(name="numbers", title="Numbers")
    places = iter([Place("numbers", Problem(str(n), {})) for n in range(SAMPLES)])

    async def serve() -> None:
        for place in places:
            await endpoint.reply(task.prompt(place.problem, "chat"), place)

    begin = time.perf_counter()
    await asyncio.gather(*(serve() for _ in range(IN_FLIGHT)))
    taken = time.perf_counter() - begin
    await endpoint.close()
    return taken


def _serve(listener: socket.socket) -> None:
    uvicorn.Server(uvicorn.Config(_app, log_level="critical", lifespan="off")).run(sockets=[listener])


async def _app(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(_BODY))]}
    )
    await send({"type": "http.response.body", "body": _BODY})


if __name__ == "__main__":
    main()
