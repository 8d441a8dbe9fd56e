"""Answers that follow a grammar: JSON, a JSON Schema, a regular expression, a choice, or a Lark grammar.

`llguidance` says which tokens may come next; tokens are compared by their bytes, so any way of spelling a valid text is
allowed. Its limits bound the work of a compilation and of each step, so that a hostile grammar fails its own request
within a second and nothing else.
"""

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray
from torch import Tensor

from coderv2.errors import InvalidValue
from coderv2.text.tokenizer import Tokenizer

_PARAM = "structured_outputs"
_KINDS = {
    "json": "JSON Schema",
    "regex": "regular expression",
    "choice": "choice",
    "grammar": "Lark grammar",
    "json_object": "JSON Schema",
}
_LONGEST = 1 << 18
"""Characters of a grammar at most."""
_LIMITS = LLParserLimits(max_grammar_size=20_000, max_items_in_row=10_000)
"""Symbols of a grammar at most, and ways to go on at one place of an answer: of an object of 2,500 properties that may
be left out. Larger ones are so refused before anything is written. That one takes 0.7 s to compile and up to 77 ms a
token, one of 1,000 0.1 s and 15 ms."""
# Without an end to white space between JSON's tokens, a model that has lost its way writes nothing else.
_JSON_OPTIONS: Any = {"whitespace_pattern": r"[ \n\r\t]{0,64}"}
_KEPT = 64
"""Compiled grammars that are kept for the next request."""


@dataclass(frozen=True, kw_only=True)
class StructuredOutputsParams:
    """What the whole answer must match; vLLM's names, exactly one of them. Raises InvalidValue."""

    json: str | Mapping[str, Any] | None = None
    """A JSON Schema, as text or as an object; what it says beyond the library's means is refused by name."""
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    """In Lark's notation, from the rule `start`."""
    json_object: bool = False

    def __post_init__(self) -> None:
        given = self._given()
        if len(given) != 1:
            raise InvalidValue(
                f"{_PARAM} needs exactly one of {', '.join(_KINDS)}, not {', '.join(given) or 'none'}",
                param=_PARAM,
            )
        for name in ("regex", "grammar"):
            if not isinstance(getattr(self, name), str | None):
                raise InvalidValue(f"{_PARAM}: {name} must be text", param=_PARAM)
        if self.choice is not None and not _are_texts(self.choice):
            raise InvalidValue(f"{_PARAM}: choice must be a list of texts that are not empty", param=_PARAM)

    def source(self) -> str:
        """The grammar as llguidance reads it. Raises InvalidValue for what is no grammar at all."""
        try:
            return self._written()
        except (ValueError, TypeError, RecursionError) as error:  # a lone surrogate among them
            (kind,) = self._given()
            raise InvalidValue(f"{_PARAM}: not a {_KINDS[kind]}: {error}", param=_PARAM) from None

    def _given(self) -> list[str]:
        return [name for name in _KINDS if getattr(self, name) not in (None, False)]

    def _written(self) -> str:
        if self.regex is not None:
            return LLMatcher.grammar_from_regex(self.regex)
        if self.grammar is not None:
            return LLMatcher.grammar_from_lark(self.grammar)
        if self.choice is not None:
            return _from_choice(self.choice)
        return _from_schema({"type": "object"} if self.json is None else self.json)


def _are_texts(choice: Any) -> bool:
    return not isinstance(choice, str) and bool(choice) and all(isinstance(c, str) and c for c in choice)


def _from_choice(choice: Sequence[str]) -> str:
    # As a terminal, in capitals, it is an automaton; of a rule's alternatives each is followed by itself.
    texts = " | ".join(json.dumps(text) for text in choice)
    return LLMatcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {texts}")


def _from_schema(schema: str | Mapping[str, Any]) -> str:
    text = schema if isinstance(schema, str) else json.dumps(schema)
    if not isinstance(json.loads(text), dict | bool):
        raise ValueError("not an object")
    return LLMatcher.grammar_from_json_schema(text, overrides=_JSON_OPTIONS)


class Grammars:
    """Compiles grammars for one tokenizer; safe to call from several threads."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """`vocab_size` is the model's: its rows beyond the tokenizer's are never allowed."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._ours: LLTokenizer | None = None
        self._kept: OrderedDict[str, LLMatcher] = OrderedDict()

    def compile(self, params: StructuredOutputsParams) -> "Grammar":
        """A fresh state of the grammar. Raises InvalidValue, with the place, when it does not compile."""
        source = params.source()
        if len(source) > _LONGEST:
            message = f"{_PARAM}: a grammar of {len(source)} characters; at most {_LONGEST} are taken"
            raise InvalidValue(message, param=_PARAM)
        matcher = self._kept.get(source)
        if matcher is None:
            matcher = self._compile(source)
            self._kept[source] = matcher
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return Grammar(matcher.deep_copy(), self._vocab_size)

    def _compile(self, source: str) -> LLMatcher:
        if self._ours is None:
            # Reading a vocabulary of 100,000 takes a moment, and most engines never need it.
            vocabulary: Any = _Vocabulary(self._tokenizer, self._vocab_size)
            self._ours = LLTokenizer(vocabulary, n_vocab=self._vocab_size)
        matcher = LLMatcher(self._ours, source, log_level=0, limits=_LIMITS)
        # Some errors only show when the first tokens are looked for, and some when one is taken.
        first_W = _unpacked(matcher.compute_bitmask())
        for state in chain([matcher], self._one_further(matcher, first_W)):
            if state.is_error():
                raise InvalidValue(f"{_PARAM}: {_first_line(state)}", param=_PARAM)
        return matcher

    def _one_further(self, matcher: LLMatcher, allowed_W: NDArray[np.uint8]) -> Iterator[LLMatcher]:
        """The state after a token of each first byte; at the most 256."""
        spelling = self._tokenizer.token_bytes
        for token_id in {spelling(i)[:1]: i for i in allowed_W.nonzero()[0].tolist()}.values():
            state = matcher.deep_copy()
            state.consume_token(token_id)
            yield state


class Grammar:
    """How far one answer has come in its grammar: a `Constraint`."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self.finished = False
        self.spent = False
        self.error: str | None = None

    def allowed(self) -> Tensor | None:
        """Bool [W]; the end of the answer is allowed where the grammar is satisfied."""
        allowed_W = _unpacked(self._matcher.compute_bitmask())
        if self._gave_up():
            return None
        return torch.from_numpy(allowed_W[: self._vocab_size].view(np.bool_))

    def accept(self, token_id: int) -> None:
        """Moves on by one allowed token."""
        self._matcher.consume_token(token_id)
        self.finished = not self._gave_up() and self._matcher.is_stopped()

    def fitting(self, token_ids: Sequence[int]) -> int:
        """How many of these tokens could come next."""
        return self._matcher.validate_tokens(list(token_ids))

    def forced(self) -> Sequence[int]:
        """Tokens that spell what must come next, if only one text may."""
        return self._matcher.compute_ff_tokens()

    def _gave_up(self) -> bool:
        if self.error is None and self._matcher.is_error():
            self.error = f"the grammar failed while the answer was written: {_first_line(self._matcher)}"
        return self.error is not None


class _Vocabulary:
    """Our tokenizer in the form that llguidance reads."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        fim = tokenizer.fim
        marks = () if fim is None else (fim.begin, fim.hole, fim.end)
        self.eos_token_id = tokenizer.eos_id
        self.bos_token_id = tokenizer.bos_id
        self.special_token_ids = sorted({*tokenizer.special_ids, *marks})
        self.tokens = [tokenizer.token_bytes(token_id) for token_id in range(vocab_size)]
        self._tokenizer = tokenizer

    def __call__(self, text: str | bytes) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)


def _unpacked(bits: bytes) -> NDArray[np.uint8]:
    return np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")


def _first_line(matcher: LLMatcher) -> str:
    return matcher.get_error().partition("\n")[0]
