"""Connections that are slow, stuck, many, or no HTTP at all, and a proxy that mistreats good ones."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from coderv2.engine.worker import Worker
from coderv2.server.app import create_app
from coderv2.server.backend import Backend
from coderv2.server.connections import ConnectionLimits, guarded_protocol
from coderv2.server.door import Door
from coderv2.server.models import Models
from tests.engine.fakes import FakeModel, fake_engine
from tests.server.running import eventually, running

LIMITS = ConnectionLimits(header_seconds=0.4, body_seconds=0.6, stall_seconds=0.5, per_address=3)
BODY = json.dumps({"prompt": "a", "max_tokens": 20, "temperature": 0}).encode()
HEAD = (
    b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    b"content-length: " + str(len(BODY)).encode() + b"\r\n\r\n"
)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker(fake_engine(FakeModel(context=50_000), cache_tokens=400_000))
    worker.start()
    yield worker
    worker.stop()


@pytest.fixture
def address(worker: Worker) -> Iterator[tuple[str, int]]:
    door = Door(Models.of("tiny", Backend(worker, fake_engine().tokenizer)))
    with running(create_app(door), LIMITS) as url:
        host, port = url.removeprefix("http://").split(":")
        yield host, int(port)


def _read_all(connection: socket.socket) -> bytes:
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return data


def test_headers_that_never_end_are_408(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(HEAD[:30])
        assert _read_all(connection).startswith(b"HTTP/1.1 408 ")


def test_a_byte_now_and_then_does_not_buy_time(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection, pytest.raises(OSError, match=r"reset|pipe"):
        _drip(connection, seconds=20)


def _drip(connection: socket.socket, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connection.sendall(b"G")
        time.sleep(0.05)


def test_a_connection_that_says_nothing_is_closed(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        assert b" 408 " in _read_all(connection)


def test_a_body_that_never_ends_is_408(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(HEAD + BODY[:5])
        assert _read_all(connection).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("begun", [HEAD[:30], HEAD + BODY[:5]])
def test_a_request_that_begins_in_the_bytes_of_the_one_before_has_no_more_time(
    address: tuple[str, int], begun: bytes
) -> None:
    with socket.create_connection(address) as connection:
        connection.settimeout(3)  # uvicorn's own patience with a quiet connection is 5 s
        connection.sendall(HEAD + BODY + begun)
        *_, last = _read_all(connection).split(b"HTTP/1.1 ")
    assert last.startswith(b"408 ")


def test_what_is_no_http_is_a_400_in_our_words(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        head, _, body = _read_all(connection).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert json.loads(body)["error"]["type"] == "invalid_request_error"


def test_endless_headers_are_431(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nx: " + b"y" * 40_000)
        assert _read_all(connection).startswith(b"HTTP/1.1 431 ")


def test_one_connection_too_many_of_an_address_is_refused_and_places_come_back(
    address: tuple[str, int],
) -> None:
    held = [socket.create_connection(address) for _ in range(LIMITS.per_address)]
    time.sleep(0.1)
    with socket.create_connection(address) as one_more:
        assert _read_all(one_more).startswith(b"HTTP/1.1 503 ")
    for connection in held:
        connection.close()
    eventually(lambda: _ask(address).startswith(b"HTTP/1.1 200 "))


def _ask(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address) as connection:
        connection.sendall(HEAD.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") + BODY)
        return _read_all(connection)


class _Transport(asyncio.Transport):
    """A client that does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        """Nothing to close."""

    def is_closing(self) -> bool:
        return self.aborted

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 5) if name == "peername" else default


@pytest.mark.parametrize("catches_up", [True, False])
def test_a_reader_that_stalls_is_cut_off(catches_up: bool) -> None:
    """A cut connection ends its request: `test_app` shows that for clients who hang up."""

    async def stall() -> bool:
        config = uvicorn.Config(create_app(Door()), lifespan="off")
        config.load()
        protocol = guarded_protocol(ConnectionLimits(stall_seconds=0.05))(config, ServerState(), {})
        transport = _Transport()
        protocol.connection_made(transport)
        protocol.pause_writing()
        if catches_up:
            protocol.resume_writing()
        await asyncio.sleep(0.3)
        aborted = transport.aborted
        protocol.connection_lost(None)
        return aborted

    assert asyncio.run(stall()) != catches_up


def test_a_reader_that_never_reads_is_cut_off_and_its_request_ends(
    address: tuple[str, int], worker: Worker
) -> None:
    """Over a real socket: its small buffer is full, then ours, and after `stall_seconds` the pages are free."""
    body = json.dumps({"prompt": "a", "max_tokens": 40_000, "temperature": 0, "stream": True, "logprobs": 20})
    head = HEAD.replace(b"content-length: %d" % len(BODY), b"content-length: %d" % len(body))
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect(address)
        connection.sendall(head + body.encode())
        eventually(lambda: worker.stats().running == 1)
        eventually(lambda: (worker.stats().running, worker.stats().pages_used) == (0, 0), seconds=60)
        assert b"[DONE]" not in _read_all(connection)


def test_keep_alive_goes_on_after_many_requests(address: tuple[str, int]) -> None:
    with httpx.Client(base_url=f"http://{address[0]}:{address[1]}") as client:
        for _ in range(5):
            assert client.post(
                "/v1/completions", content=BODY, headers={"content-type": "application/json"}
            ).is_success


Mistreat = Callable[[socket.socket, socket.socket], None]


@contextmanager
def _proxy(target: tuple[str, int], mistreat: Mistreat) -> Iterator[tuple[str, int]]:
    """Takes one connection after the other, and hands each with one to the target to `mistreat`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    client, _ = listener.accept()
                except TimeoutError:
                    continue
                with client, socket.create_connection(target) as server:
                    mistreat(client, server)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            over.set()
            thread.join()


def _slices(client: socket.socket, server: socket.socket) -> None:
    """Every byte of the request by itself."""
    for byte in HEAD + BODY:
        server.sendall(bytes([byte]))
    client.sendall(server.recv(1 << 20))


def _delays(client: socket.socket, server: socket.socket) -> None:
    server.sendall(HEAD)
    time.sleep(0.2)
    server.sendall(BODY)
    client.sendall(server.recv(1 << 20))


def _resets(client: socket.socket, server: socket.socket) -> None:
    server.sendall(HEAD + BODY[:9])
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


def _half_closes(client: socket.socket, server: socket.socket) -> None:
    server.sendall(HEAD + BODY)
    server.shutdown(socket.SHUT_WR)
    client.sendall(server.recv(1 << 20))


@pytest.mark.parametrize(
    ("mistreat", "answered"), [(_slices, True), (_delays, True), (_resets, False), (_half_closes, None)]
)
def test_a_bad_road_breaks_nothing(
    address: tuple[str, int], worker: Worker, mistreat: Mistreat, answered: bool | None
) -> None:
    with _proxy(address, mistreat) as proxy, socket.create_connection(proxy) as connection:
        connection.settimeout(30)
        reply = connection.recv(1 << 20)
        if answered is not None:
            assert reply.startswith(b"HTTP/1.1 200 ") == answered
    eventually(lambda: (worker.stats().running, worker.stats().pages_used) == (0, 0))
    eventually(lambda: _ask(address).startswith(b"HTTP/1.1 200 "))
