"""How much of the machine's memory processes hold, as far as anybody can see who is not root."""

import os
from collections.abc import Iterable
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_SOCKET = 2 * 212_992
"""What the queue of a local socket takes at most; the filter of system calls keeps it so short."""
_FILE = 1 << 10
"""Of an empty one."""
_UNNOTICED = 16 << 20
_SHARED = b"/dev/zero (deleted)"
"""The name of shared memory without a name."""


class Memory:
    """Held since it was made."""

    def __init__(self, *, outside: bool, folders: Iterable[str] = ()) -> None:
        """`outside`: the asker is in other namespaces than the processes; sockets and files of its own do not count.
        `folders`: file systems below their root whose files count.
        """
        self._network = _network("/proc/self") if outside else None
        self._folders = {folder: _device(folder) for folder in folders}
        self._shared = _machines_shared()

    def bytes(self, pids: Iterable[int]) -> int:
        """Of these processes; what ends meanwhile counts nothing."""
        alive = [process for process in map(_Process, pids) if process.resident]
        if not alive:
            return 0
        beside = self._beside(alive[-1].folder)
        grown = _machines_shared() - self._shared
        if grown > _UNNOTICED and any(_SHARED in _read(f"{process.folder}/maps") for process in alive):
            return beside + grown + sum(process.resident - process.mapped for process in alive)
        return beside + sum(process.resident for process in alive)

    def _beside(self, process: str) -> int:
        """What is no process's, seen from one of them, which may still be on its way into its box."""
        sockets = _sockets(process) if _network(process) not in ("", self._network) else 0
        places = [(f"{process}/root{folder}", ours) for folder, ours in self._folders.items()]
        return _SOCKET * sockets + _FILE * sum(
            _files(place) for place, ours in places if _device(place) != ours
        )


class _Process:
    """`resident` of its memory, of which `mapped` are pages of files and shared; `folder` tells more."""

    def __init__(self, pid: int) -> None:
        self.folder = f"/proc/{pid}"
        self.resident, self.mapped = _resident(self.folder)
        if not self.resident:  # where its first thread has ended, the others still tell
            self._ask_threads()

    def _ask_threads(self) -> None:
        try:
            folders = [f"{self.folder}/task/{thread}" for thread in os.listdir(f"{self.folder}/task")]  # noqa: PTH208
        except OSError:
            return
        asked = [(_resident(folder), folder) for folder in folders]
        (self.resident, self.mapped), self.folder = max(asked, default=((0, 0), self.folder))


def _resident(folder: str) -> tuple[int, int]:
    words = _read(f"{folder}/statm").split() or [b"0"] * 3
    return int(words[1]) * _PAGE, int(words[2]) * _PAGE


def _machines_shared() -> int:
    """Shared memory and files in memory, whoever's. What is mapped no longer, but not given back, only this tells."""
    return int(_read("/proc/meminfo").partition(b"Shmem:")[2].split()[0]) << 10


def _sockets(folder: str) -> int:
    words = _read(f"{folder}/net/sockstat").split()
    return int(words[2]) if words else 0


def _network(folder: str) -> str:
    try:
        return str(Path(folder, "ns/net").readlink())
    except OSError:
        return ""


def _device(path: str) -> int | None:
    try:
        return Path(path).stat().st_dev
    except OSError:
        return None


def _files(folder: str) -> int:
    try:
        found = os.statvfs(folder)
    except OSError:
        return 0
    return found.f_files - found.f_ffree


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", 0) as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return b""
