"""The tokenizer out of a GGUF file's metadata."""

import hashlib
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from coderv2.errors import BadCheckpoint, Unsupported, shown
from coderv2.log import logger
from coderv2.model.gguf_parts import Gguf
from coderv2.text.chat import CHAT_TEMPLATE
from coderv2.text.published import from_vocabulary
from coderv2.text.tokenizer import BOS, EOS, Tokenizer

_TEMPLATE = "tokenizer.chat_template"
_PUBLISHED_TEMPLATE = "5b0c475e85b3954175a606f8e7540ec0c6a16edb516e2b8cd0c000dff7b1ad65"
"""`_digest` of the one that DeepSeek-V2's checkpoints carry."""


class TokenType(IntEnum):
    """What a token is to GGUF; the others are plain text and bytes."""

    NORMAL = 1
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5


def tokenizer_of(file: Gguf) -> Tokenizer:
    """The vocabulary in the metadata; Unsupported when text is cut otherwise than DeepSeek-V2's."""
    path, metadata = file.path, file.metadata
    _check_template(path, metadata.get(_TEMPLATE))
    pre = metadata.get("tokenizer.ggml.pre")
    if metadata.get("tokenizer.ggml.model") != "gpt2" or pre not in ("deepseek-llm", "deepseek-coder"):
        raise Unsupported(
            f"{path}: tokenizer {shown(metadata.get('tokenizer.ggml.model'))} with {shown(pre)}"
        )
    if pre == "deepseek-coder":
        raise Unsupported(f"{path}: the tokenizer of the first DeepSeek-Coder, not of DeepSeek-Coder-V2")
    tokens, types, merges = (
        _strings_or_numbers(metadata, f"tokenizer.ggml.{key}", kind, path)
        for key, kind in (("tokens", str), ("token_type", int), ("merges", str))
    )
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    if len(types) != len(tokens) or len(set(tokens)) != len(tokens) or any(len(pair) != 2 for pair in pairs):
        raise BadCheckpoint(f"{path}: the tokenizer's tokens, types and merges do not fit each other")
    return _tokenizer(path, tokens, types, pairs)


def _strings_or_numbers(metadata: dict[str, Any], key: str, kind: type, path: Path) -> list[Any]:
    values = metadata.get(key)
    if not isinstance(values, list) or not all(type(value) is kind for value in values):
        raise BadCheckpoint(f"{path}: metadata lacks {key}, a list of {kind.__name__}")
    return values


def _tokenizer(
    path: Path, tokens: Sequence[str], types: Sequence[int], merges: Sequence[tuple[str, ...]]
) -> Tokenizer:
    # Rows of the model without a token have names in the file, which no text may bring.
    ids = {
        token: i
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind != TokenType.UNUSED
    }
    for wanted in (BOS, EOS):
        if wanted not in ids:
            raise BadCheckpoint(
                f"{path}: the tokenizer has no {wanted}, which every prompt of this model needs"
            )
    special = {ids[BOS], ids[EOS]}
    added = [
        AddedToken(token, normalized=True, special=i in special)
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED)
    ]
    try:
        backend = from_vocabulary(ids, [(a, b) for a, b in merges], added)
    except Exception as error:  # the library raises bare Exception for merges of unknown tokens
        raise BadCheckpoint(f"{path}: the tokenizer's merges cannot be used: {shown(str(error))}") from None
    return Tokenizer(backend, source=str(path))


def _check_template(path: Path, template: Any) -> None:
    """Templates are programs, and none of a checkpoint is run: one that may write otherwise than ours is named."""
    if isinstance(template, str) and not writes_as_ours(template):
        logger.warning(
            "%s: its own chat template (sha256 %s…) is not run; prompts follow DeepSeek-Coder-V2's",
            path,
            _digest(template)[:12],
        )


def writes_as_ours(template: str) -> bool:
    """Whether it is our template or the published one."""
    return template.strip() == CHAT_TEMPLATE or _digest(template) == _PUBLISHED_TEMPLATE


def _digest(template: str) -> str:
    """Files hold a newline within a string of a template as itself or escaped."""
    return hashlib.sha256(template.strip().replace("\n", "\\n").encode()).hexdigest()
