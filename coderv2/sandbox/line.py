"""Pickled messages between a driver and its wardens, over one end of a socket pair.

What a message holds as a `memoryview` goes beside it and arrives as one, in memory that a fork finds empty: a message
itself leaves copies in the heap of its receiver, and each program is a fork of a warden.

`multiprocessing.Connection` does the same and loads modules whose memory each copy of a warden would have to map anew:
that takes half as long as a fork.
"""

import io
import os
import pickle
import select
from itertools import accumulate
from typing import Any, cast

from coderv2.sandbox.store import Store

_SIZE = 8
_AT_ONCE = 1024  # IOV_MAX


def beside(data: bytes) -> bytes:
    """The same bytes as a view, which goes beside its message."""
    return cast(bytes, memoryview(data))


class Line:
    """One end. What comes out of the other is trusted."""

    def __init__(self, fd: int) -> None:
        """`fd` belongs to the line from now on."""
        self._fd = fd

    def send(self, message: object, views_as: type[bytes] | type[memoryview] = memoryview) -> None:
        """Raises BrokenPipeError when nobody listens any more. Where the receiver is never forked, views may come as
        `bytes`.
        """
        data, views = io.BytesIO(), list[pickle.PickleBuffer]()
        pickler = pickle.Pickler(data, pickle.HIGHEST_PROTOCOL, buffer_callback=views.append)
        pickler.dispatch_table = {memoryview: lambda view: (views_as, (pickle.PickleBuffer(view),))}
        pickler.dump(message)
        parts = [data.getbuffer(), *(view.raw() for view in views)]
        sizes = [len(parts), *map(len, parts)]
        self._write([memoryview(b"".join(size.to_bytes(_SIZE, "little") for size in sizes)), *parts])

    def receive(self) -> Any:
        """The next message. Raises EOFError when no more will come."""
        (count,) = self._sizes(1)
        sizes = self._sizes(count)
        rest = self._bytes(sum(sizes))
        parts = [rest[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]
        return pickle.loads(parts[0], buffers=parts[1:])

    def raise_if_over(self) -> None:
        """Raises EOFError when the other end is gone; takes no message."""
        poll = select.poll()
        poll.register(self._fd, 0)
        if poll.poll(0):
            raise EOFError

    def close(self) -> None:
        """The other end will hear of it."""
        os.close(self._fd)

    def _write(self, parts: list[memoryview]) -> None:
        while parts:
            sent = os.writev(self._fd, parts[:_AT_ONCE])
            while parts and sent >= len(parts[0]):
                sent -= len(parts.pop(0))
            parts[:1] = [part[sent:] for part in parts[:1]]

    def _sizes(self, count: int) -> list[int]:
        data = self._bytes(_SIZE * count)
        return [int.from_bytes(data[at : at + _SIZE], "little") for at in range(0, len(data), _SIZE)]

    def _bytes(self, size: int) -> memoryview:
        store = Store(size)
        while len(store) < size:
            if not store.read(self._fd):
                raise EOFError
        return store.view()
