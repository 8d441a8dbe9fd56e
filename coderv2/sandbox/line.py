"""Pickled messages between a driver and its wardens, over one end of a socket pair.

`multiprocessing.Connection` does the same and loads modules whose memory each copy of a warden would have to map anew:
that takes half as long as a fork.
"""

import os
import pickle
import select
from typing import Any

_SIZE = 8
_CHUNK = 1 << 20


class Line:
    """One end. What comes out of the other is trusted."""

    def __init__(self, fd: int) -> None:
        """`fd` belongs to the line from now on."""
        self._fd = fd

    def send(self, message: object) -> None:
        """Raises BrokenPipeError when nobody listens any more."""
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        rest = memoryview(len(data).to_bytes(_SIZE, "little") + data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def receive(self) -> Any:
        """The next message. Raises EOFError when no more will come."""
        return pickle.loads(self._bytes(int.from_bytes(self._bytes(_SIZE), "little")))

    def raise_if_over(self) -> None:
        """Raises EOFError when the other end is gone; takes no message."""
        poll = select.poll()
        poll.register(self._fd, 0)
        if poll.poll(0):
            raise EOFError

    def close(self) -> None:
        """The other end will hear of it."""
        os.close(self._fd)

    def _bytes(self, size: int) -> bytearray:
        data = bytearray()
        while len(data) < size:
            chunk = os.read(self._fd, min(_CHUNK, size - len(data)))
            if not chunk:
                raise EOFError
            data += chunk
        return data
