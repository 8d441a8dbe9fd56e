"""From an address to a running server, and to its clean end."""

import asyncio
import errno
import signal
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from coderv2.engine.worker import Worker
from coderv2.errors import InvalidValue

GRACE_SECONDS = 5.0
"""What open requests get after the first signal; then their streams end with an error event."""


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
    except OSError as error:  # another program began to listen while the model was loaded
        raise _refusal(error, host, port) from None


def _refusal(error: OSError, host: str, port: int) -> InvalidValue:
    why = f"cannot listen on {host} port {port}: {error.strerror or error}"
    if error.errno == errno.EADDRINUSE:
        why = f"port {port} on {host} is in use: choose another with --port, or stop what runs there"
    return InvalidValue(why, param="port")


def serve(app: FastAPI, worker: Worker, bound: socket.socket, *, on_ready: Callable[[], None]) -> None:
    """Runs until SIGINT or SIGTERM. `on_ready` is called once connections are taken."""
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", server_header=False)
    worker.start()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # uvicorn raises the signal again when it is done; by then there is nothing left to do.
        for number in before:
            signal.signal(number, lambda *_: None)
        _listen(bound, config.backlog)
        on_ready()
        _Server(config, worker).run(sockets=[bound])
    finally:
        worker.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


class _Server(uvicorn.Server):
    """Ends what is still being answered when the grace is over."""

    def __init__(self, config: uvicorn.Config, worker: Worker) -> None:
        super().__init__(config)
        self._worker = worker

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's, which waits for open connections; the worker stops meanwhile."""
        stopping = asyncio.create_task(self._stop_worker())
        await super().shutdown(sockets)
        stopping.cancel()

    async def _stop_worker(self) -> None:
        await asyncio.sleep(GRACE_SECONDS)
        await asyncio.to_thread(self._worker.stop)
