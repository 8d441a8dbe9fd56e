"""Bytes in memory that a fork finds empty: what passes through a warden is nothing that a later program may read."""

import mmap
import os

_WIPE_ON_FORK = 18  # MADV_WIPEONFORK, which the module does not name


class Store:
    """Room for `most` bytes that come out of a file descriptor. It takes memory only as they come."""

    def __init__(self, most: int) -> None:
        pages = mmap.mmap(-1, max(most, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        pages.madvise(_WIPE_ON_FORK)
        self._memory = memoryview(pages)[:most]
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def read(self, fd: int) -> int:
        """How many bytes came; 0 at the end, or where there is no room any more."""
        count = os.readv(fd, [self._memory[self._size :]])
        self._size += count
        return count

    def view(self, most: int | None = None) -> memoryview:
        """What has come, or its first bytes. Any copy of them would lie where forks find it."""
        return self._memory[: self._size][:most]
