"""The help pages in `docs/cli`, one per command: `python -m coderv2.cli.pages docs/cli`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from coderv2.cli.main import coderv2

_WIDTH = 100


def pages() -> Iterator[tuple[str, str]]:
    """File name and text of each page."""
    top = _context(coderv2, "coderv2", None)
    yield "coderv2.md", _page(coderv2, top)
    for name in coderv2.list_commands(top):
        command = coderv2.get_command(top, name)
        assert command is not None
        yield f"{name}.md", _page(command, _context(command, name, top))


def write(folder: Path) -> None:
    """Writes all pages."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages():
        (folder / name).write_text(text, "utf-8")


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    return click.Context(
        command,
        info_name=name,
        parent=parent,
        terminal_width=_WIDTH,
        max_content_width=_WIDTH,
        help_option_names=["-h", "--help"],
    )


def _page(command: click.Command, ctx: click.Context) -> str:
    """The command's help, and below it that of commands within it."""
    helps = [(ctx.command_path, command.get_help(ctx))]
    if isinstance(command, click.Group) and ctx.parent is not None:
        inner = [(part, _context(part, name, ctx)) for name, part in command.commands.items()]
        helps += [(below.command_path, part.get_help(below)) for part, below in inner]
    text = "\n\n".join(
        f"{'#' * (1 + (path != ctx.command_path))} {path}\n\n```\n{said}\n```" for path, said in helps
    )
    return f"{text}\n\nMade from `{ctx.command_path} --help` by `make docs`.\n"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
