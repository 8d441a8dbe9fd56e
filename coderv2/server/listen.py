"""From an address to a running server, and to its clean end: it answers while it loads, and drains before it stops."""

import asyncio
import errno
import gc
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from coderv2.errors import InvalidValue
from coderv2.server.connections import ConnectionLimits, guarded_protocol
from coderv2.server.door import Door
from coderv2.server.limits import MAX_HEADER_BYTES
from coderv2.server.models import Models

GRACE_SECONDS = 20.0
"""What open requests get after the first signal; then, or at a second signal, their streams end with an error event."""


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: a port in use shows before a model is loaded.

    Port 0 takes any free one. Raises InvalidValue when the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InvalidValue(f"host {host!r} is no address of this machine: {error}", param="host") from None
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise _refusal(error, host, port) from None
    return bound


def _listen(bound: socket.socket, backlog: int) -> None:
    host, port = bound.getsockname()[:2]
    try:
        bound.listen(backlog)
    except OSError as error:  # another program began to listen on it in between
        raise _refusal(error, host, port) from None


def _refusal(error: OSError, host: str, port: int) -> InvalidValue:
    why = f"cannot listen on {host} port {port}: {error.strerror or error}"
    if error.errno == errno.EADDRINUSE:
        why = f"port {port} on {host} is in use: choose another with --port, or stop what runs there"
    return InvalidValue(why, param="port")


def serve(
    app: FastAPI,
    door: Door,
    bound: socket.socket,
    *,
    load: Callable[[], Models],
    stop: Callable[[], None],
    on_ready: Callable[[], None],
    limits: ConnectionLimits | None = None,
) -> int:
    """Runs until SIGINT or SIGTERM.

    The exit code: 0, or 128 and the signal's number where `load` still runs. Then the process must end by `os._exit`:
    the interpreter cannot be taken down under a thread that is in C++.

    Connections are taken at once; `load` runs beside in a thread, then requests are served and `on_ready` is called.
    What `load` raises ends the server and is raised here. `stop` ends what `load` began, if anything.
    """
    config = config_for(app, limits or ConnectionLimits())
    _listen(bound, config.backlog)
    server = _Server(config, door, load, stop, on_ready)
    try:
        server.run(sockets=[bound])
    finally:
        stop()
    if server.failure is not None:
        raise server.failure
    return server.code


def config_for(app: FastAPI, limits: ConnectionLimits) -> uvicorn.Config:
    """uvicorn's settings for this app."""
    return uvicorn.Config(
        app,
        http=guarded_protocol(limits),
        ws="none",
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        log_level="error",
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
    )


def settle() -> None:
    """What is there now stays: the collector need not look at it again, which takes tens of milliseconds each time."""
    gc.collect()
    gc.freeze()


class _Server(uvicorn.Server):
    """Loads after it has begun to listen; ends when what is being answered has ended, or when the grace is over."""

    def __init__(
        self,
        config: uvicorn.Config,
        door: Door,
        load: Callable[[], Models],
        stop: Callable[[], None],
        on_ready: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self.failure: BaseException | None = None
        self._door = door
        self._load = load
        self._stop = stop
        self._on_ready = on_ready
        self._end = 0.0
        self._signal = 0
        # A thread of its own, which a second signal need not wait for.
        self._loader = threading.Thread(target=self._load_model, name="coderv2-loading", daemon=True)

    @property
    def code(self) -> int:
        """See `serve`."""
        return 128 + self._signal if self._signal and self._loader.is_alive() else 0

    async def main_loop(self) -> None:
        """uvicorn's, with the model being loaded beside it."""
        self._loader.start()
        await super().main_loop()

    def _load_model(self) -> None:
        try:
            models = self._load()
        except Exception as error:  # whatever keeps a model from being loaded is for our caller
            self.failure = error
            self.should_exit = True
            return
        if self._door.draining:  # told to end meanwhile: what has begun only now ends too
            self._stop()
            return
        settle()
        self._door.models = models
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second ends it."""
        self._signal = sig
        self.should_exit = self._door.draining
        self._door.draining = True
        self._end = time.monotonic() + GRACE_SECONDS

    async def on_tick(self, counter: int) -> bool:
        """True to stop."""
        drained = self._door.draining and (not self.server_state.tasks or time.monotonic() > self._end)
        return await super().on_tick(counter) or drained

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's, which waits for open connections; their streams end meanwhile."""
        stopping = asyncio.create_task(asyncio.to_thread(self._stop))
        await super().shutdown(sockets)
        await stopping
