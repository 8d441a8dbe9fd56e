"""Files that are whole or as they were before, and what is said when a disk takes no more."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coderv2.errors import ServiceError
from coderv2.log import logger


def put(path: Path, content: bytes) -> None:
    """Writes beside the file first, then takes its place. Raises ServiceError, and what was there before stays."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise refused(path, error, "nothing that was there is lost") from None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Waits until no other process is in here with this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        lock(handle, folder)
        yield
    finally:
        os.close(handle)


def lock(handle: int, path: Path, *, wait: bool = True) -> None:
    """Until the handle is closed. Raises BlockingIOError where it is another's and this does not wait."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:  # some file systems of clusters have no locks
        logger.warning("%s cannot be locked (%s): let no other run write there", path, error.strerror)


def refused(path: Path, error: OSError, kept: str) -> ServiceError:
    """The error for a file that could not be written; `kept` says what is safe."""
    return ServiceError(
        f"{path}: {error.strerror}; {kept}: make room and give the same command again, and it goes on"
    )
