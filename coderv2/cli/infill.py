"""`coderv2 infill`: the text that belongs into a hole."""

from itertools import chain
from typing import Any

import click

from coderv2.cli import answering, loading, options, reading
from coderv2.errors import InvalidValue

MARKER = "<FILL>"


@click.command()
@click.argument("file", required=False)
@click.option(
    "--marker", default=MARKER, show_default=True, metavar="TEXT", help="What marks the hole in FILE."
)
@click.option("--prefix-file", metavar="FILE", help="What stands before the hole, instead of a marked FILE.")
@click.option("--suffix-file", metavar="FILE", help="What stands after the hole; goes with --prefix-file.")
@click.option("--whole", is_flag=True, help="Print the whole text with the hole filled.")
@options.model
@options.sampling(max_tokens=256, temperature=0)
@options.dtype
@options.kv_cache_dtype
@options.placing
def infill(
    file: str | None,
    marker: str,
    prefix_file: str | None,
    suffix_file: str | None,
    whole: bool,
    model: str | None,
    dtype: str,
    kv_cache_dtype: str,
    **values: Any,
) -> None:
    """Fill a hole in code.

    FILE holds <FILL> once, where something is missing; "-", or none with a pipe, reads standard input. Only the missing
    text is printed.

    \b
    coderv2 infill sort.py
    printf 'def add(a, b):\\n    return <FILL>\\n' | coderv2 infill --whole
    """
    from coderv2.text.fim import encode_fim

    prefix, suffix = _parts(file, marker, prefix_file, suffix_file)
    placed = options.placed(values)
    params = options.sampling_params(values)
    engine = loading.load_for_one(model, dtype, kv_cache_dtype, placed).engine
    pieces = answering.answer(engine, encode_fim(engine.tokenizer, prefix, suffix), params)
    answering.show(chain([prefix] * whole, pieces, [suffix] * whole))


def _parts(
    file: str | None, marker: str, prefix_file: str | None, suffix_file: str | None
) -> tuple[str, str]:
    """What stands before the hole, and after."""
    if prefix_file is None and suffix_file is None:
        return _at_hole(reading.file_or_stdin(file, "FILE"), marker, file or reading.STDIN)
    if file is not None or prefix_file is None or suffix_file is None:
        raise click.UsageError(
            "Give either FILE, or both --prefix-file and --suffix-file.", click.get_current_context()
        )
    if marker != MARKER:
        raise click.UsageError(
            "--marker is for FILE, not for --prefix-file and --suffix-file.", click.get_current_context()
        )
    if prefix_file == suffix_file == reading.STDIN:
        raise click.UsageError("Standard input can be one of the two files.", click.get_current_context())
    return reading.file_text(prefix_file), reading.file_text(suffix_file)


def _at_hole(text: str, marker: str, path: str) -> tuple[str, str]:
    """The text's two parts; what is wrong with it is told with the file's name and the way out."""
    from coderv2.text.fim import split_at_hole

    try:
        return split_at_hole(text, marker)
    except InvalidValue as error:
        way_out = f"; write {marker} where text is missing, or name another with --marker" * bool(marker)
        raise InvalidValue(f"{reading.named(path)}: {error}{way_out}", param="marker") from None
