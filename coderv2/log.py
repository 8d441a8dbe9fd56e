"""One logger for the package; libraries stay silent until a program asks."""

import logging
import sys

logger = logging.getLogger("coderv2")
logger.addHandler(logging.NullHandler())


def to_stderr(level: int = logging.INFO) -> None:
    """Sends our log lines to standard error, one line each: for programs, never called by the library.

    A second call changes the level only.
    """
    logger.setLevel(level)
    if any(isinstance(handler, logging.StreamHandler) for handler in logger.handlers):
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
