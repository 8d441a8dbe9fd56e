"""Messages between a driver and its wardens."""

import os
import socket
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderv2.sandbox.line import Line, beside


def pair() -> tuple[Line, Line]:
    ours, theirs = socket.socketpair()
    return Line(ours.detach()), Line(theirs.detach())


@given(st.lists(st.recursive(st.none() | st.integers() | st.binary() | st.text(), st.lists), max_size=5))
def test_messages_arrive_whole_and_in_order(messages: list[Any]) -> None:
    one, other = pair()
    for message in messages:
        one.send(message)
    assert [other.receive() for _ in messages] == messages
    one.close()
    with pytest.raises(EOFError):
        other.receive()
    other.close()


def test_a_message_larger_than_the_sockets_buffer_arrives_in_pieces() -> None:
    one, other = pair()
    message = bytes(range(256)) * (20 << 10)
    sender = threading.Thread(target=one.send, args=[message])
    sender.start()
    assert other.receive() == message
    sender.join()
    one.close()
    other.close()


@given(st.lists(st.binary(), max_size=5))
def test_views_arrive_beside_their_message(parts: list[bytes]) -> None:
    one, other = pair()
    one.send(["before", *map(beside, parts)])
    one.send(list(map(beside, parts)), views_as=bytes)
    before, *views = other.receive()
    assert (before, [bytes(view) for view in views]) == ("before", parts)
    assert all(type(view) is memoryview for view in views)
    assert other.receive() == parts
    one.close()
    other.close()


def test_a_message_of_more_parts_than_one_call_writes() -> None:
    one, other = pair()
    parts = [bytes([number % 256]) * (number % 300) for number in range(3000)]
    sender = threading.Thread(target=one.send, args=[list(map(beside, parts))])
    sender.start()
    assert list(map(bytes, other.receive())) == parts
    sender.join()
    one.close()
    other.close()


def test_a_fork_finds_nothing_of_a_view() -> None:
    one, other = pair()
    one.send(beside(b"secret"))
    view = other.receive()
    child = os.fork()
    if child == 0:
        os._exit(int(bytes(view) != bytes(6)))
    assert os.waitpid(child, 0)[1] == 0
    assert bytes(view) == b"secret"
    view.release()
    one.close()
    other.close()


def test_a_message_that_is_cut_off_is_no_message() -> None:
    ours, theirs = socket.socketpair()
    line = Line(theirs.detach())
    with ours:
        ours.sendall((1).to_bytes(8, "little") + (100).to_bytes(8, "little") + b"half")
    with pytest.raises(EOFError):
        line.receive()
    line.close()


def test_nobody_at_the_other_end_is_an_error() -> None:
    one, other = pair()
    other.close()
    with pytest.raises(BrokenPipeError):
        one.send("anybody there?")
    one.close()
