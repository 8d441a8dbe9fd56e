"""An app on a real loopback port, in a thread."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from coderv2.server.connections import ConnectionLimits
from coderv2.server.listen import bind, config_for


@contextmanager
def running(app: FastAPI, limits: ConnectionLimits | None = None) -> Iterator[str]:
    """Its root URL."""
    bound = bind("127.0.0.1", 0)
    server = uvicorn.Server(config_for(app, limits or ConnectionLimits()))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        eventually(lambda: server.started)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        bound.close()


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Waits until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)
