"""`coderv2 complete`: text that goes on where the prompt ends."""

from itertools import chain
from typing import Any

import click

from coderv2.cli import answering, loading, options, reading


@click.command()
@click.argument("prompt", required=False)
@click.option("--echo", is_flag=True, help="Print the prompt in front of the completion.")
@options.model
@options.sampling(max_tokens=256, temperature=0)
@options.dtype
@options.kv_cache_dtype
@options.placing
def complete(
    prompt: str | None, echo: bool, model: str | None, dtype: str, kv_cache_dtype: str, **values: Any
) -> None:
    """Complete code or text.

    PROMPT is the text to go on with; "-", or none with a pipe, reads standard input. Only the completion is printed,
    so that an editor can insert it. Names of control tokens in the prompt are plain text.

    \b
    coderv2 complete "def quick_sort(arr):"
    head -20 sort.py | coderv2 complete --echo
    """
    text = reading.argument_or_stdin(prompt, "PROMPT")
    placed = options.placed(values)
    params = options.sampling_params(values)
    engine = loading.load_for_one(model, dtype, kv_cache_dtype, placed).engine
    pieces = answering.answer(engine, engine.tokenizer.encode(text, bos=True), params)
    answering.show(chain([text] * echo, pieces))
