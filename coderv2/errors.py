"""Every error this package raises on purpose, in one tree that says whose fault it was.

    CoderV2Error
    ├── UserError               the caller can mend it: a usage line in a terminal, a 4xx over HTTP
    │   ├── InvalidValue        a value out of range or of the wrong kind; `param` names it
    │   ├── Unsupported         a real option that this build or this model does not honour; `param` names it
    │   ├── ContextTooLong      prompt plus answer exceed the context; the message starts with the limit
    │   ├── ModelNotFound       neither a folder, nor a hub name that can be downloaded
    │   ├── BadCheckpoint       a file of a checkpoint is missing, damaged or not what its config says
    │   ├── BadData             a training or evaluation file cannot be used
    │   └── NoSandbox           nothing on this machine can hold strangers' programs; the message says what to install
    └── ServiceError            nothing the caller did; it may pass: a 5xx over HTTP
        ├── QueueFull           the engine's bounded queue is full
        ├── NoAnswer            another server that was asked did not begin to answer in time
        ├── EngineStopped       the engine is shutting down, or died; the message says why
        └── SandboxFailed       a box could not be made for a program, or broke; says nothing about the program

Messages hold the numbers and the way out. HTTP status codes belong to `server/errors.py`.
"""

import reprlib
from typing import Any


class CoderV2Error(Exception):
    """Root of the tree."""


class UserError(CoderV2Error):
    """The caller can mend it."""


class InvalidValue(UserError):
    """A value out of range or of the wrong kind."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Unsupported(UserError):
    """A real option that this build or this model does not honour."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextTooLong(UserError):
    """Prompt and answer together exceed the model's context."""


class ModelNotFound(UserError):
    """Neither a folder nor a hub name that can be downloaded."""


class BadCheckpoint(UserError):
    """A checkpoint's file is missing, damaged, or not what its config says."""


class BadData(UserError):
    """A training or evaluation file cannot be used."""


class NoSandbox(UserError):
    """Nothing on this machine can hold strangers' programs."""


class ServiceError(CoderV2Error):
    """Nothing the caller did; it may pass."""


class QueueFull(ServiceError):
    """The engine's bounded queue is full."""


class NoAnswer(ServiceError):
    """Another server that was asked did not begin to answer in time."""


class EngineStopped(ServiceError):
    """The engine is shutting down or has died."""


class SandboxFailed(ServiceError):
    """A box could not be made for a program, or broke; it says nothing about the program."""


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def shown(value: Any) -> str:
    """A value out of a file that nobody vouches for, as messages may hold it: short, on one line, printable."""
    return _SHORT.repr(value)
