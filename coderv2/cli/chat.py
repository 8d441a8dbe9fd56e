"""`coderv2 chat`: one answer, or a conversation in the terminal."""

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from coderv2.cli import answering, loading, options, reading
from coderv2.errors import UserError

if TYPE_CHECKING:
    from coderv2.engine.engine import Engine
    from coderv2.engine.request import SamplingParams
    from coderv2.text.chat import Message

_HELP = """\
Enter sends a line; lines between two lines of \"\"\" go together.
Ctrl-C stops an answer, Ctrl-D ends the conversation.
/reset starts a new one, /help shows this."""
_BLOCK = '"""'


@click.command()
@click.argument("message", required=False)
@click.option("--system", metavar="TEXT", help="Instructions in front of the conversation.")
@options.model
@options.sampling(max_tokens=1024, temperature=None)
@options.dtype
@options.kv_cache_dtype
@options.placing
def chat(
    message: str | None, system: str | None, model: str | None, dtype: str, kv_cache_dtype: str, **values: Any
) -> None:
    """Chat with the model.

    With a MESSAGE (or "-" or a pipe, for standard input) one answer is printed; without, a conversation begins.

    \b
    coderv2 chat "Write a function that reverses a list."
    coderv2 chat
    """
    in_terminal = message is None and reading.from_terminal()
    text = "" if in_terminal else reading.argument_or_stdin(message, "MESSAGE")
    loaded = loading.load_for_one(model, dtype, kv_cache_dtype, options.placed(values))
    conversation = Conversation(loaded.engine, _params(loaded, values), system)
    if in_terminal:
        click.echo(f"{loaded.name}: /help for help, Ctrl-D ends.")
        _use_readline()
        converse(conversation, _read_line)
    else:
        answering.show(conversation.ask(text))


def _params(loaded: loading.Loaded, values: dict[str, Any]) -> "SamplingParams":
    """What the command line leaves open is the model's own."""
    from coderv2.server.defaults import SamplingDefaults

    defaults = SamplingDefaults.from_folder(loaded.folder)
    for name in ("temperature", "top_p"):
        if values[name] is None:
            values[name] = getattr(defaults, name)
    return options.sampling_params(values)


@dataclass
class Conversation:
    """What was said so far, and who answers."""

    engine: "Engine"
    params: "SamplingParams"
    system: str | None = None
    messages: list["Message"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Only the system text stays."""
        from coderv2.text.chat import Message

        self.messages = [] if self.system is None else [Message("system", self.system)]

    def ask(self, text: str, stopped: Callable[[], bool] = lambda: False) -> Iterator[str]:
        """Pieces of the answer. What was said is remembered, also of an answer that was stopped."""
        from coderv2.text.chat import Message, encode_chat

        asked = [*self.messages, Message("user", text)]
        prompt_ids = encode_chat(self.engine.tokenizer, asked)
        said = ""
        for piece in answering.answer(self.engine, prompt_ids, self.params, stopped=stopped):
            # The space after `Assistant:` is the template's, not the answer's.
            shown = piece if said else piece.removeprefix(" ")
            said += piece
            yield shown
        self.messages = [*asked, Message("assistant", said)]


def converse(conversation: Conversation, read_line: Callable[[str], str]) -> None:
    """Turns until `read_line` raises EOFError."""
    while True:
        try:
            text = _read_message(read_line)
        except KeyboardInterrupt:
            click.echo("\n(Ctrl-D ends)")
            continue
        except EOFError:
            click.echo()
            return
        if not _carry_out(conversation, text.strip()) and text.strip():
            _answer(conversation, text)


def _read_message(read_line: Callable[[str], str]) -> str:
    line = read_line(">>> ")
    if line.strip() != _BLOCK:
        return line
    lines: list[str] = []
    while (line := read_line("... ")).strip() != _BLOCK:
        lines.append(line)
    return "\n".join(lines)


def _carry_out(conversation: Conversation, text: str) -> bool:
    """Whether it was a command."""
    if not re.fullmatch(r"/\w+", text):
        return False
    if text == "/reset":
        conversation.reset()
    else:
        click.echo(_HELP if text == "/help" else f"{text}: no such command, /help lists them")
    return True


def _answer(conversation: Conversation, text: str) -> None:
    try:
        with _interrupts() as interrupted:
            answering.show(conversation.ask(text, interrupted))
    except UserError as error:
        click.echo(f"{error} (/reset starts a new conversation)")


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Within, a first Ctrl-C is only remembered, so that the engine is never torn out of a step."""
    pressed = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _read_line(prompt: str) -> str:
    return input(prompt)


def _use_readline() -> None:
    # Line editing and history; not on every system.
    with suppress(ImportError):
        import readline  # noqa: F401
