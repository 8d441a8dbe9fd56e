"""A small invented benchmark, data folders made on the spot, an endpoint that does as it is told."""

import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from coderv2.evaluation.asking import Ask, Chat, Exchange, Place, Problem, Reply, Style
from coderv2.evaluation.data import Data
from coderv2.evaluation.task import Score, Scored, Tools, verdict
from coderv2.sandbox.judge import Program, Verdict


@dataclass(frozen=True, kw_only=True)
class Sums(Scored):
    """Adds numbers: problem n asks for n + n."""

    name: str = "sums"
    title: str = "Sums"
    count: int = 6

    def problems(self, data: Data) -> Iterable[Problem]:
        return (Problem(f"sum/{n}", {"n": n}, "even" if n % 2 == 0 else "odd") for n in range(self.count))

    def prompt(self, problem: Problem, style: Style) -> Ask:
        return Chat.of(f"{problem.row['n']} + {problem.row['n']} =")

    async def score(self, problem: Problem, exchange: Exchange, tools: Tools) -> Score:
        return verdict(exchange.reply.text.strip() == str(2 * problem.row["n"]), exchange.reply.text.strip())

    def canonical(self, problem: Problem, style: Style) -> str:
        return str(2 * problem.row["n"])


class Scripted:
    """Replies with what a function says, and remembers what it was asked."""

    def __init__(self, answer: Callable[[Ask, Place], str], name: str = "scripted") -> None:
        self.name = name
        self.tokenizer = None
        self.context = None
        self.asked: list[tuple[Ask, Place]] = []
        self._answer = answer

    async def identity(self) -> dict[str, str]:
        return {"model": self.name}

    async def reply(self, ask: Ask, place: Place) -> Reply:
        self.asked.append((ask, place))
        return Reply(self._answer(ask, place))

    async def close(self) -> None:
        pass


class FakeTools:
    """Replies (or errors) in a row for the model and for the judge; programs pass when `passes` says so."""

    def __init__(
        self,
        replies: Sequence[str | Exception] = (),
        judgements: Sequence[str | Exception] = (),
        passes: Callable[[Program], bool] = lambda program: True,
    ) -> None:
        self._replies, self._judgements, self._passes = iter(replies), iter(judgements), passes
        self.asked: list[Ask] = []
        self.judged: list[Chat] = []
        self.programs: list[Program] = []

    async def ask(self, ask: Ask, place: Place) -> Reply:
        self.asked.append(ask)
        return _said(self._replies)

    async def referee(self, ask: Chat) -> Reply:
        self.judged.append(ask)
        return _said(self._judgements)

    async def run(self, program: Program) -> Verdict:
        self.programs.append(program)
        passed = self._passes(program)
        return Verdict(passed, "passed" if passed else "wrong", "said the tests", 0.0)

    async def run_once(self, key: str, make: Callable[[], Program]) -> Verdict:
        return await self.run(make())


def _said(replies: Iterator[str | Exception]) -> Reply:
    said = next(replies)
    if isinstance(said, Exception):
        raise said
    return Reply(said)


def data_with(folder: Path, files: Mapping[str, object], **more: Any) -> Data:
    """A data folder: lists become JSON lines, text and bytes are written as they are."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, "utf-8")
        else:
            assert isinstance(content, list)
            path.write_text("".join(json.dumps(row) + "\n" for row in content), "utf-8")
    return Data(folder, **more)


Answerer = Callable[[str, dict[str, Any]], Awaitable[tuple[int, dict[str, str], bytes]]]


@asynccontextmanager
async def endpoint(answer: Answerer):  # type: ignore[no-untyped-def]
    """A server on a free port; `answer` gets path and body and gives status, headers, body. Yields its URL."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        status, headers, content = await answer(scope["path"], json.loads(body or b"{}"))
        pairs = [(k.encode(), v.encode()) for k, v in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": content})

    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    import asyncio

    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


def chat_body(text: object, **more: Any) -> bytes:
    """An OpenAI chat answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": {"completion_tokens": 3}, **more}).encode()
