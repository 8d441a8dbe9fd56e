"""One logger for the package; libraries stay silent until a program asks."""

import logging
import sys
from typing import TextIO

logger = logging.getLogger("coderv2")
logger.addHandler(logging.NullHandler())


def to_stderr(level: int = logging.INFO) -> None:
    """Sends our log lines to standard error, one line each: for programs, never called by the library.

    A second call changes the level only.
    """
    logger.setLevel(level)
    if any(isinstance(handler, _ToStandardError) for handler in logger.handlers):
        return
    handler = _ToStandardError()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)


class _ToStandardError(logging.StreamHandler[TextIO]):
    """Asks at each line where standard error is: a program may redirect it, and close what it was."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)  # the stream's own constructor would keep today's

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """Where standard error is now."""
        return sys.stderr
