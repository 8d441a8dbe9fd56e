"""`coderv2`: command → module, imported when it is run, so that `--help` is instant; errors → one line and a code.

Exit codes: 0 done; 1 nothing the caller did, or the reader of our output went away; 2 a wrong argument, file or model;
130 Ctrl-C.
"""

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TextIO

import click

from coderv2 import __version__, log
from coderv2.cli import interrupts
from coderv2.errors import CoderV2Error, UserError

COMMANDS = ("complete", "infill", "chat", "serve", "key", "eval", "convert", "doctor", "plan", "bench")


class _Commands(click.Group):
    """Finds `coderv2 NAME` as the function `NAME` in `coderv2.cli.NAME`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of a newcomer's interest."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """None for an unknown name, which click reports."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"coderv2.cli.{cmd_name}"), cmd_name)
        return command


@click.group(
    cls=_Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, message="coderv2 %(version)s")
@click.pass_context
def coderv2(ctx: click.Context) -> None:
    """DeepSeek-Coder-V2: complete, infill and chat in a terminal, or serve it over HTTP."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits."""
    interrupts.end_imports()
    _open_closed_streams()
    for output in (sys.stdout, sys.stderr):
        _never_fail_on_a_character(output)
    log.to_stderr(logging.WARNING)
    sys.exit(_flushed(run(arguments)))


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code."""
    try:
        return int(coderv2.main(arguments, "coderv2", standalone_mode=False) or 0)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "coderv2"
        return _complain(f"{error.format_message()} (see {command} --help)", 2)
    except click.Abort:
        return interrupts.INTERRUPTED
    except (click.ClickException, CoderV2Error) as error:
        return _complain(str(error), 2 if isinstance(error, click.ClickException | UserError) else 1)
    except OSError as error:
        if error.filename is None:
            return _complain(error.strerror or str(error), 1)
        return _complain(f"{error.filename}: {error.strerror}", 2)


def _complain(message: str, code: int) -> int:
    click.echo(f"coderv2: {' '.join(message.splitlines())}", err=True)
    return code


def _flushed(code: int) -> int:
    """The exit code when what is written is out; a full disk may show only now, and Python would try again."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or _complain(f"standard output: {error.strerror}", 1)
    return code


def _open_closed_streams() -> None:
    """One that the caller closed is empty, or takes everything; no file of ours gets its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def _never_fail_on_a_character(output: TextIO) -> None:
    # A terminal may lack a character that a model writes.
    if hasattr(output, "reconfigure"):
        output.reconfigure(errors="replace")
