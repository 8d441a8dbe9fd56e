"""What all routes share: who is let in, which models answer, and how an answer goes out."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

from fastapi import Request
from starlette.responses import Response

from coderv2.server import errors
from coderv2.server.caller import Accounts, Caller
from coderv2.server.errors import Failure, Refused
from coderv2.server.generation import Generation, Job
from coderv2.server.metrics import Metrics
from coderv2.server.models import Models
from coderv2.server.repeats import Repeats
from coderv2.server.sessions import Sessions
from coderv2.server.stream import EventStream, Framing, encode_json, framed, unless_gone

T = TypeVar("T")
_SHORT = 4096
"""Bytes of a body whose tokens are counted in less than a millisecond or two."""


class Replies(Protocol):
    """A dialect's way to tell an answer."""

    async def whole(self) -> Any:
        """At once."""

    def chunks(self) -> AsyncGenerator[Any, None]:
        """In pieces."""


@dataclass
class Door:
    """One server's state. It loads until `models` is set, and drains once `draining` is."""

    models: Models | None = None
    accounts: Accounts = field(default_factory=Accounts)
    draining: bool = False
    metrics: Metrics = field(default_factory=Metrics)
    sessions: Sessions = field(default_factory=Sessions)
    repeats: Repeats = field(default_factory=Repeats)

    @property
    def state(self) -> str:
        """loading, ready, draining, or stopped."""
        if self.draining:
            return "draining"
        if self.models is None:
            return "loading"
        return "ready" if all(b.engine.healthy() for b in self.models.backends) else "stopped"

    def admit(self, request: Request) -> Caller:
        """Who asks. Raises Refused."""
        return self.accounts.recognise(request)

    def served(self) -> Models:
        """The models. Raises Refused while there are none."""
        if self.models is None:
            raise _unavailable("loading", "the model is being loaded; try again soon")
        return self.models

    async def start(
        self, request: Request, translate: Callable[[Models, Caller], Job], *, long: bool = False
    ) -> Generation:
        """Sets off what a dialect made of the request; `long`: the prompt is more than the body holds.

        Raises Refused, and what the engine refuses.
        """
        models = self.served()
        if self.draining:
            raise _unavailable("draining", "the server is shutting down")
        caller: Caller = request.state.caller
        if caller.account is not None:
            caller.account.begin()
            request.state.account = caller.account
        # A prompt of megabytes takes the tokenizer seconds, and a grammar the compiler: other streams must go on.
        job = await _somewhere(long or await _is_long(request), partial(translate, models, caller))
        work = await _somewhere(
            job.params.structured_outputs is not None,
            partial(Generation, job, tenant=caller.tenant, deadline=caller.deadline),
        )
        request.state.work = work
        self.metrics.begin(work)
        return work

    async def reply(
        self,
        request: Request,
        replies: Replies,
        framing: Framing | None,
        tell: Callable[[Failure], Any] | None = None,
    ) -> Response:
        """The answer, in pieces where there is a framing; a failure among them is what `tell` makes of it, by default
        the body of its family."""
        path, request_id, work = request.url.path, request.state.request_id, request.state.work

        def told(error: Exception) -> Any:
            failure = errors.failure(error, request_id)
            return failure.body(path, request_id) if tell is None else tell(failure)

        if framing is not None:
            source = framed(replies.chunks(), framing, told, lambda: work.clock.first is not None)
            return EventStream(source, framing.media_type)
        return await self.whole(request, replies.whole())

    async def whole(self, request: Request, answer: Coroutine[Any, Any, Any]) -> Response:
        """The answer at once."""
        whole = await unless_gone(request, answer)
        return json_response(whole) if whole is not None else Response(status_code=499)


async def aside(request: Request, work: Callable[[], T]) -> T:
    """Work that grows with the request's body."""
    return await _somewhere(await _is_long(request), work)


async def _somewhere(takes_long: bool, work: Callable[[], T]) -> T:
    """Here, or in a thread; a thread costs more than a short piece of work."""
    return await asyncio.to_thread(work) if takes_long else work()


async def _is_long(request: Request) -> bool:
    """By the body as it was inflated."""
    return len(await request.body()) > _SHORT


def _unavailable(code: str, message: str) -> Refused:
    return Refused(503, code, message, type="server_error")


def json_response(value: Any, status: int = 200) -> Response:
    """JSON as we write it."""
    return Response(encode_json(value), status, media_type="application/json")


def names(request: Request, prefix: str) -> str:
    """The id of what answers this request, after the request's own."""
    request_id: str = request.state.request_id
    return request_id.replace("req_", prefix)
