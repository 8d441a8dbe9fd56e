"""Token ids → text as it is written, on the screen."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from coderv2.errors import ServiceError

if TYPE_CHECKING:
    from coderv2.engine.engine import Engine
    from coderv2.engine.request import SamplingParams


def _never() -> bool:
    return False


def answer(
    engine: "Engine",
    prompt_ids: Sequence[int],
    params: "SamplingParams",
    *,
    stopped: Callable[[], bool] = _never,
) -> Iterator[str]:
    """Pieces of the answer's text. `max_tokens` is cut to the room in the context.

    `stopped` is asked between two tokens; closing the iterator ends the request, too. Raises ContextTooLong when not
    even one token fits, ServiceError when the model fails.
    """
    if params.max_tokens is not None:
        room = engine.max_model_len - len(prompt_ids)
        params = replace(params, max_tokens=max(1, min(params.max_tokens, room)))
    request_id = engine.submit(prompt_ids, params)
    try:
        while engine.has_work() and not stopped():
            for delta in engine.step():
                if delta.error:
                    raise ServiceError(delta.error)
                yield delta.text
    finally:
        engine.abort(request_id)
        while engine.has_work():
            engine.step()


def show(pieces: Iterable[str]) -> str:
    """Writes each piece at once, and a line end after the last when somebody is watching; the whole text."""
    written = []
    for piece in pieces:
        click.echo(piece, nl=False)
        written.append(piece)
    if sys.stdout.isatty():
        click.echo()
    return "".join(written)
