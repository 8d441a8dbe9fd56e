"""Fill-in-the-middle prompts, prefix first: begin, prefix, hole, suffix, end; the model writes the middle."""

from coderv2.errors import InvalidValue, Unsupported
from coderv2.text.tokenizer import FIM_BEGIN, FIM_END, FIM_HOLE, Tokenizer


def encode_fim(tokenizer: Tokenizer, prefix: str, suffix: str, *, context: str = "") -> list[int]:
    """Token ids of the prompt, BOS included; nothing is put between the parts, and either may be empty.

    `context` is other files' text, which stands before the marks: see `with_path`. Marker text inside the parts stays
    plain characters. Raises Unsupported when the tokenizer has no fill-in-the-middle tokens.
    """
    fim = tokenizer.fim
    if fim is None:
        marks = ", ".join((FIM_BEGIN, FIM_HOLE, FIM_END))
        raise Unsupported(f"this model cannot infill: its tokenizer lacks {marks}", param="suffix")
    before, after = tokenizer.encode(prefix), tokenizer.encode(suffix)
    return [tokenizer.bos_id, *tokenizer.encode(context), fim.begin, *before, fim.hole, *after, fim.end]


def with_path(path: str, text: str) -> str:
    """Another file as DeepSeek-Coder's repository prompts show it: its path as a comment, its text, a newline."""
    return f"#{path}\n{text}\n"


def split_at_hole(text: str, marker: str) -> tuple[str, str]:
    """What stands before and after `marker`. Raises InvalidValue unless it occurs exactly once."""
    if not marker:
        raise InvalidValue("the hole marker is empty: name the text that marks the hole", param="marker")
    found = text.count(marker)
    if found != 1:
        raise InvalidValue(f"the hole marker {marker!r} must occur once, not {found} times", param="marker")
    prefix, _, suffix = text.partition(marker)
    return prefix, suffix
