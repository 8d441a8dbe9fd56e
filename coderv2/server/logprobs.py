"""Log-probabilities in OpenAI's two shapes: of chat (a list of objects) and of completions (parallel lists)."""

import codecs
from collections.abc import Iterable
from typing import Any

from coderv2.engine.request import TokenLogprob
from coderv2.text.tokenizer import Tokenizer

_LOWEST = -9999.0
"""Stands for minus infinity, which JSON lacks."""


def chat_logprobs(tokenizer: Tokenizer, places: Iterable[TokenLogprob]) -> dict[str, Any]:
    """The `logprobs` of a chat choice or delta; `bytes` tell half characters apart."""
    content = [
        _chat_token(tokenizer, place.token_id, place.logprob)
        | {"top_logprobs": [_chat_token(tokenizer, *likely) for likely in place.top]}
        for place in places
    ]
    return {"content": content, "refusal": None}


def _chat_token(tokenizer: Tokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    return {
        "token": _spelling(tokenizer, token_id),
        "logprob": max(logprob, _LOWEST),
        "bytes": list(tokenizer.token_bytes(token_id)),
    }


class CompletionLogprobs:
    """The `logprobs` of one completion choice, whole or chunk by chunk."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, places: Iterable[TokenLogprob | int]) -> dict[str, Any]:
        """The object for the next tokens; `text_offset` counts characters of the text.

        A token without a probability is given by its id alone: an echoed prompt's first.
        """
        known = [(p, None) if isinstance(p, int) else (p.token_id, p) for p in places]
        return {
            "tokens": [_spelling(self._tokenizer, token_id) for token_id, _ in known],
            "token_logprobs": [None if p is None else max(p.logprob, _LOWEST) for _, p in known],
            "top_logprobs": [None if p is None else self._top(p) for _, p in known],
            "text_offset": [self._advance(token_id) for token_id, _ in known],
        }

    def _top(self, place: TokenLogprob) -> dict[str, float]:
        # Tokens of half characters may spell alike: the likelier keeps the key.
        pairs: dict[str, float] = {}
        for token_id, logprob in (*place.top, (place.token_id, place.logprob)):
            pairs.setdefault(_spelling(self._tokenizer, token_id), max(logprob, _LOWEST))
        return pairs

    def _advance(self, token_id: int) -> int:
        offset = self._offset
        if token_id in self._tokenizer.special_ids:
            return offset
        self._offset += len(self._decoder.decode(self._tokenizer.token_bytes(token_id)))
        return offset


def _spelling(tokenizer: Tokenizer, token_id: int) -> str:
    return tokenizer.decode([token_id], skip_special=False)
