"""Addresses, and the end of a server."""

import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from coderv2.engine.worker import Worker
from coderv2.errors import InvalidValue
from coderv2.server import listen
from coderv2.server.app import create_app
from coderv2.server.backend import Backend
from coderv2.server.door import Door
from coderv2.server.listen import bind, serve
from coderv2.server.models import Models
from tests.engine.fakes import FakeModel, fake_engine
from tests.tiny_tokenizer import tiny_tokenizer


def test_a_port_in_use_is_one_clear_error() -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            InvalidValue, match=rf"port {port} on 127.0.0.1 is in use: choose another"
        ) as caught:
            bind("127.0.0.1", port)
        assert caught.value.param == "port"


def test_a_port_taken_before_we_listen_is_the_same_error() -> None:
    with bind("127.0.0.1", 0) as ours, socket.socket() as theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        theirs.bind(ours.getsockname())
        theirs.listen()
        with pytest.raises(InvalidValue, match="is in use"):
            _serve(Worker(fake_engine()), ours, lambda: None)


def test_an_address_that_is_none_of_ours() -> None:
    for host in ("no-such-host.invalid", "192.0.2.1"):
        with pytest.raises(InvalidValue, match=host):
            bind(host, 0)


def _serve(worker: Worker, bound: socket.socket, on_ready: Callable[[], None]) -> int:
    door = Door()

    def load() -> Models:
        worker.start()
        return Models.of("tiny", Backend(worker, tiny_tokenizer()))

    return serve(create_app(door), door, bound, load=load, stop=worker.stop, on_ready=on_ready)


def _serve_until(visit: Callable[[str], Any]) -> Worker:
    """Serves in this thread, as signals need, while another visits and then sends the signal."""
    worker = Worker(fake_engine(FakeModel(context=50_000), cache_tokens=100_000))
    bound = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    visitor = threading.Thread(target=visit, args=(url,))
    assert _serve(worker, bound, visitor.start) == 0
    visitor.join()
    bound.close()
    return worker


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(number: int) -> None:
    seen: list[int] = []

    def visit(url: str) -> None:
        seen.append(httpx.get(f"{url}/health").status_code)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    worker = _serve_until(visit)
    assert seen == [200]
    assert not worker.healthy()
    assert signal.getsignal(number) is before


def test_a_server_told_to_end_while_it_loads_ends_what_has_begun_and_greets_nobody() -> None:
    ended, running, greeted = threading.Event(), [], []

    def load() -> Models:
        os.kill(os.getpid(), signal.SIGTERM)
        assert ended.wait(30)
        running.append("an engine")
        return Models.of("tiny", Backend(Worker(fake_engine(FakeModel())), tiny_tokenizer()))

    door, bound = Door(), bind("127.0.0.1", 0)
    code = serve(
        create_app(door), door, bound, load=load, stop=running.clear, on_ready=lambda: greeted.append(True)
    )
    assert (
        code == 128 + signal.SIGTERM
    )  # what loads still runs: `coderv2 serve` ends without taking Python down
    bound.close()
    ended.set()
    for thread in threading.enumerate():
        if thread.name == "coderv2-loading":
            thread.join(30)
    assert not running
    assert not greeted


def test_open_streams_get_a_grace_and_then_an_error_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "GRACE_SECONDS", 0.3)
    lines: list[str] = []

    def visit(url: str) -> None:
        body = {"prompt": "a", "max_tokens": 40_000, "temperature": 0, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body) as response:
            received = (line for line in response.iter_lines() if line)
            lines.append(next(received))
            os.kill(os.getpid(), signal.SIGINT)
            lines.extend(received)

    _serve_until(visit)
    assert len(lines) > 2
    assert '"code":"draining"' in lines[-1]
