"""The engine's loop in a thread of its own, and awaitable streams: the only file that knows about threads.

Native kernels release the interpreter lock, so a server's event loop runs on beside the engine. Everything that
changes the engine is handed to its thread and done between two steps.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

import torch

from coderv2.engine.deadlines import check_deadline
from coderv2.engine.engine import Engine
from coderv2.engine.open_requests import Terms
from coderv2.engine.request import Delta, SamplingParams
from coderv2.engine.stats import EngineStats
from coderv2.errors import CoderV2Error, EngineStopped, QueueFull, ServiceError
from coderv2.log import logger


@dataclass(eq=False)
class _Reader:
    """Where one stream's deltas go, from the engine's thread to the event loop that awaits them."""

    loop: asyncio.AbstractEventLoop
    inbox: "asyncio.Queue[Delta | CoderV2Error]" = field(default_factory=asyncio.Queue)

    def send(self, item: Delta | CoderV2Error) -> None:
        # A loop that has been closed cannot take it, and nobody is left who would read it.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.inbox.put_nowait, item)


class Worker:
    """Runs an engine that nobody else touches any more."""

    def __init__(self, engine: Engine, *, patience: float | None = None) -> None:
        """Requests that have not begun after `patience` seconds end with QueueFull; None: they wait."""
        check_deadline(0.0, patience)
        self._engine = engine
        self._patience = patience
        self._thread = threading.Thread(target=self._run, name="coderv2-engine", daemon=True)
        self._wake = threading.Condition()
        self._orders: deque[Callable[[], object]] = deque()
        self._readers: dict[str, _Reader] = {}
        self._stop_reason: str | None = "the engine has not been started"
        self._names = count()

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and answer together."""
        return self._engine.max_model_len

    def start(self) -> None:
        """Starts the thread; once."""
        self._stop_reason = None
        self._thread.start()

    def stop(self) -> None:
        """Ends every stream with EngineStopped after the step under way, and waits for that. Again: nothing happens."""
        with self._wake:
            self._stop_reason = self._stop_reason or "the engine is shutting down"
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    def healthy(self) -> bool:
        """True while requests can be served."""
        return self._stop_reason is None and self._thread.is_alive()

    def stats(self) -> EngineStats:
        """The engine's counts of this moment."""
        return self._engine.stats()

    def stream(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        tenant: str = "",
        priority: int = 0,
        deadline: float | None = None,
    ) -> AsyncGenerator[Delta, None]:
        """The deltas of all n answers as they come; the iterator ends when the last answer has.

        `tenant`, `priority` and `deadline` are `Engine.submit`'s; the deadline counts from the first `anext`.
        InvalidValue, ContextTooLong, QueueFull and EngineStopped are raised at the call, before anything is sent to a
        client. While iterating: QueueFull when others took the last place meanwhile or it waited too long,
        EngineStopped, or ServiceError when the model failed. The request starts with the first `anext`; closing the
        iterator, or cancelling the task that awaits it, aborts it. Whoever may leave a loop early uses
        `contextlib.aclosing`.
        """
        self._check_running()
        self._engine.validate(prompt_ids, params)
        terms = Terms(tenant, priority, deadline, self._patience)
        if self._engine.full(params.answers):
            raise QueueFull("too many requests are waiting; try again soon")
        ids, name = list(prompt_ids), f"stream-{next(self._names)}"

        return self._deltas(name, ids, params, terms)

    async def _deltas(
        self, request_id: str, prompt_ids: Sequence[int], params: SamplingParams, terms: Terms
    ) -> AsyncGenerator[Delta, None]:
        reader, unfinished = _Reader(asyncio.get_running_loop()), params.n
        if isinstance(params.prediction, str):
            # Neither the engine nor this loop waits while a long one is encoded.
            params = await asyncio.to_thread(self._engine.ready, params)
        self._order(lambda: self._submit(request_id, prompt_ids, params, terms), {request_id: reader})
        try:
            while unfinished:
                delta = _unwrap(await reader.inbox.get())
                unfinished -= delta.finish_reason is not None
                yield delta
        finally:
            self._forget(request_id, abort=unfinished > 0)

    def _order(self, order: Callable[[], object], readers: Mapping[str, _Reader] | None = None) -> None:
        """Has `order` done in the engine's thread before its next step; `readers` are told if that thread ends."""
        with self._wake:
            self._check_running()
            self._readers.update(readers or {})
            self._orders.append(order)
            self._wake.notify()

    def _forget(self, request_id: str, *, abort: bool) -> None:
        with self._wake:
            self._readers.pop(request_id, None)
        if abort:
            with suppress(EngineStopped):
                self._order(lambda: self._engine.abort(request_id))

    def _check_running(self) -> None:
        if not self.healthy():
            raise EngineStopped(self._stop_reason or "the engine's thread is gone")

    # From here on: the engine's thread.

    def _run(self) -> None:
        try:
            if (device := self._engine.device).type == "cuda":
                torch.cuda.set_device(device)  # every thread has one of its own, at first the first
            while self._carry_out_orders():
                for delta in self._engine.step():
                    self._send(delta.request_id, delta)
        except BaseException as error:
            logger.exception("the engine's thread died")
            self._end_streams(f"the engine died: {error!r}")
        else:
            self._end_streams("the engine is shutting down")

    def _carry_out_orders(self) -> bool:
        """Does what was ordered, waiting for it while there is nothing else to do; False to stop."""
        while not (self._orders or self._stop_reason or self._engine.has_work()) and self._engine.save_page():
            pass
        with self._wake:
            self._wake.wait_for(lambda: self._orders or self._stop_reason or self._engine.has_work())
            orders, self._orders = self._orders, deque()
        for order in orders:
            order()
        return self._stop_reason is None

    def _submit(
        self, request_id: str, prompt_ids: Sequence[int], params: SamplingParams, terms: Terms
    ) -> None:
        try:
            self._engine.submit(prompt_ids, params, request_id=request_id, **vars(terms))
        except CoderV2Error as error:
            self._send(request_id, error)
        except Exception as error:  # a defect of ours, but of one request
            logger.exception("a request could not be started")
            self._send(request_id, ServiceError(f"the request could not be started: {error!r}"))

    def _send(self, request_id: str, item: "Delta | CoderV2Error") -> None:
        reader = self._readers.get(request_id)
        if reader is not None:
            reader.send(item)

    def _end_streams(self, reason: str) -> None:
        with self._wake:
            self._stop_reason = reason
            readers = list(self._readers.values())
        for reader in readers:
            reader.send(EngineStopped(reason))


def _unwrap(item: Delta | CoderV2Error) -> Delta:
    if isinstance(item, CoderV2Error):
        raise item
    if item.error is not None:
        raise QueueFull(item.error) if item.finish_reason == "queue" else ServiceError(item.error)
    return item
