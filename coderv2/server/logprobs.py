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

    def add(self, places: Iterable[TokenLogprob]) -> dict[str, Any]:
        """The object for the next tokens; `text_offset` counts characters of the answer."""
        places = list(places)
        return {
            "tokens": [_spelling(self._tokenizer, place.token_id) for place in places],
            "token_logprobs": [max(place.logprob, _LOWEST) for place in places],
            "top_logprobs": [self._top(place) for place in places],
            "text_offset": [self._advance(place.token_id) for place in places],
        }

    def _top(self, place: TokenLogprob) -> dict[str, float]:
        # Tokens of half characters may spell alike: the likelier keeps the key.
        pairs: dict[str, float] = {}
        for token_id, logprob in (*place.top, (place.token_id, place.logprob)):
            pairs.setdefault(_spelling(self._tokenizer, token_id), max(logprob, _LOWEST))
        return pairs

    def _advance(self, token_id: int) -> int:
        offset = self._offset
        self._offset += len(self._decoder.decode(self._tokenizer.token_bytes(token_id)))
        return offset


def _spelling(tokenizer: Tokenizer, token_id: int) -> str:
    return tokenizer.decode([token_id], skip_special=False)
