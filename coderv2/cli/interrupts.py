"""Ctrl-C while modules are imported ends the program: many of them catch KeyboardInterrupt, others would show it."""

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]
INTERRUPTED = 130
"""The exit code."""


def end_imports() -> None:
    """From here on Ctrl-C ends the program at once where a module is being imported; else it is as usual."""
    _replace(signal.default_int_handler, _interrupt)


def as_usual() -> None:
    """Gives Ctrl-C back to Python, before those begin that look whether it is Python's (asyncio)."""
    _replace(_interrupt, signal.default_int_handler)


def _replace(old: Handler, new: Handler) -> None:
    if signal.getsignal(signal.SIGINT) is old:  # a shell's background has it ignored
        signal.signal(signal.SIGINT, new)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _is_importing(frame):
        os._exit(INTERRUPTED)
    signal.default_int_handler(number, frame)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back
    return False
