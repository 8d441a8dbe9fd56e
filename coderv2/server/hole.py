"""A hole with other files around it → a prompt that leaves room for the answer."""

from collections.abc import Sequence

from coderv2.errors import ContextTooLong
from coderv2.server.backend import Backend
from coderv2.text.fim import encode_fim, with_path
from coderv2.text.tokenizer import Tokenizer


def encode_hole(
    backend: Backend, prefix: str, suffix: str, files: Sequence[tuple[str, str]], answer_tokens: int
) -> list[int]:
    """Token ids. Of the `files`, paths and texts, the last ones that there is room for stand before the hole.

    Nothing in any text becomes a control token. Raises Unsupported for a model that cannot infill.
    """
    backend.check_infill()
    tokenizer, most = backend.prompt_tokenizer, backend.engine.max_model_len - answer_tokens
    prompt = encode_fim(tokenizer, prefix, suffix)
    kept = _last_that_fit(tokenizer, files, most - len(prompt))
    while kept:
        around = encode_fim(tokenizer, prefix, suffix, context="".join(kept))
        if len(around) <= most:
            return around
        del kept[0]  # put together they are longer than one by one, which is rare
    return prompt


def _last_that_fit(tokenizer: Tokenizer, files: Sequence[tuple[str, str]], room: int) -> list[str]:
    kept: list[str] = []
    for path, text in reversed(files):
        kept.insert(0, with_path(path, text))
        try:
            room -= len(tokenizer.at_most(room).encode(kept[0]))
        except ContextTooLong:
            return kept[1:]
    return kept
