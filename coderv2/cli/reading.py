"""Text from arguments, files and standard input, character for character."""

import sys
from pathlib import Path

import click

from coderv2.errors import InvalidValue

STDIN = "-"


def argument_or_stdin(argument: str | None, name: str) -> str:
    """The argument; "-" or none reads standard input, unless that is a terminal and nobody was asked."""
    if argument is not None and argument != STDIN:
        return argument
    text = file_text(_stdin_unless_terminal(argument, name))
    if not text:
        raise InvalidValue(f"standard input is empty: give a {name}, or pipe one in")
    return text


def file_or_stdin(path: str | None, name: str) -> str:
    """The file's text; "-" or none reads standard input, as above."""
    return file_text(path or _stdin_unless_terminal(path, name))


def file_text(path: str) -> str:
    """UTF-8, line ends as they are. Raises InvalidValue for bytes that are not UTF-8, OSError for no file."""
    data = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidValue(f"{named(path)}: not UTF-8 text (byte {error.start})") from None


def named(path: str) -> str:
    """What messages call it."""
    return "standard input" if path == STDIN else path


def from_terminal() -> bool:
    """Whether somebody types at standard input."""
    return sys.stdin.isatty()


def _stdin_unless_terminal(argument: str | None, name: str) -> str:
    if argument is None and from_terminal():
        raise click.UsageError(f"Give a {name}, or pipe it in.", click.get_current_context())
    return STDIN
