"""What is asked of an answer: `SamplingParams`, and which values make sense."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coderv2.engine.grammar import StructuredOutputsParams
from coderv2.errors import InvalidValue, shown

_LARGEST = sys.float_info.max
"""Finite, so that neither infinity nor a whole number without a float passes an end that is open."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How an answer's tokens are chosen and when it ends; names and defaults are vLLM's.

    Raises InvalidValue, whose `param` names the field, for anything out of range.
    """

    n: int = 1
    """Answers to the prompt, each with a random stream of its own."""
    best_of: int | None = None
    """Answers that are made, of which the n likeliest per token are given, when all have ended; None: n."""
    temperature: float = 1.0
    """0 takes the likeliest token; other values divide the logits."""
    top_p: float = 1.0
    """Keep the fewest likeliest tokens that hold this much probability (after min_p and top_k)."""
    top_k: int = 0
    """Keep this many likeliest tokens; 0 or -1 keeps all."""
    min_p: float = 0.0
    """Keep tokens at least this fraction as likely as the likeliest."""
    max_tokens: int | None = 16
    """None: as many as the context holds."""
    min_tokens: int = 0
    """Before so many tokens no stop token is chosen and no stop string looked for."""
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] | None = None
    seed: int | None = None
    """The same tokens whatever else runs; answer `index` of n uses seed + index."""
    ignore_eos: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens in prompt and answer."""
    logit_bias: Mapping[int, float] | None = None
    logprobs: int | None = None
    """Log-probabilities of the chosen token and of so many likeliest ones, 0 to 20, before any adjustment."""
    prompt_logprobs: int | None = None
    """The same for each token of the prompt but the first, which nothing precedes."""
    skip_special_tokens: bool = True
    structured_outputs: StructuredOutputsParams | None = None
    """What the whole answer must match."""
    token_healing: bool = False
    """A cursor in the middle of a token, at the prompt's end or at its hole: goes on as if it were typed whole."""
    fim_reuse: str = "exact"
    """With "shifted" an infilling prompt may take over its suffix from an earlier one, moved to its new place: the
    first token comes sooner, and the answer may differ from the exact one."""
    prediction: str | Sequence[int] | None = None
    """What the answer will probably be, such as the file that is being edited; it is used where it is right, and as
    far as a context reaches."""
    draft_tokens: int | None = None
    """Guessed tokens that one step checks at most; 0: none, None: the engine's setting. No answer depends on it."""

    def __post_init__(self) -> None:
        for name, allowed in _RANGES.items():
            allowed.check(name, getattr(self, name))
        for name in ("ignore_eos", "skip_special_tokens", "token_healing"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidValue(f"{name} must be true or false, not {getattr(self, name)!r}", param=name)
        _check_best_of(self.n, self.best_of)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            message = f"min_tokens ({self.min_tokens}) must not exceed max_tokens ({self.max_tokens})"
            raise InvalidValue(message, param="min_tokens")
        if not isinstance(self.structured_outputs, StructuredOutputsParams | None):
            message = (
                f"structured_outputs must be StructuredOutputsParams, not {self.structured_outputs!r:.80}"
            )
            raise InvalidValue(message, param="structured_outputs")
        _check_infilling(self)
        _check_stops(self.stop)
        for token_id in _listed("stop_token_ids", self.stop_token_ids):
            _TOKEN_ID.check("stop_token_ids", token_id)
        _check_bias(self.logit_bias)

    @property
    def answers(self) -> int:
        """How many are made, whether or not all are given."""
        return self.n if self.best_of is None else self.best_of

    @property
    def stops(self) -> tuple[str, ...]:
        """`stop` as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def greedy(self) -> bool:
        """True when nothing is drawn at random."""
        return self.temperature == 0


@dataclass(frozen=True)
class _Range:
    """Numbers that a field takes, both ends included."""

    low: float
    high: float = _LARGEST
    whole: bool = False
    optional: bool = False
    above_low: bool = False

    def check(self, name: str, value: Any) -> None:
        if value is None and self.optional:
            return
        kinds = (int,) if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not self._holds(value):
            raise InvalidValue(f"{name} must be {self}, not {shown(value)}", param=name)

    def _holds(self, value: float) -> bool:
        above = value > self.low if self.above_low else value >= self.low
        return above and value <= self.high

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        start = f"above {self.low:g}" if self.above_low else f"from {self.low:g}"
        end = "" if self.high == _LARGEST else f" to {self.high:g}"
        return f"{kind} {start}{end}" + (" or None" if self.optional else "")


MOST_LOGPROBS = 20
_TOKEN_ID = _Range(0, whole=True)
_BIAS = _Range(-100, 100)
_RANGES = {
    "n": _Range(1, whole=True),
    "best_of": _Range(1, whole=True, optional=True),
    "temperature": _Range(0),
    "top_p": _Range(0, 1, above_low=True),
    "top_k": _Range(-1, whole=True),
    "min_p": _Range(0, 1),
    "max_tokens": _Range(1, whole=True, optional=True),
    "min_tokens": _Range(0, whole=True),
    "seed": _Range(-(2**63), 2**64, whole=True, optional=True),
    "presence_penalty": _Range(-2, 2),
    "frequency_penalty": _Range(-2, 2),
    "repetition_penalty": _Range(0, above_low=True),
    "logprobs": _Range(0, MOST_LOGPROBS, whole=True, optional=True),
    "prompt_logprobs": _Range(0, MOST_LOGPROBS, whole=True, optional=True),
    "draft_tokens": _Range(0, whole=True, optional=True),
}


def _check_best_of(n: int, best_of: int | None) -> None:
    if best_of is not None and best_of < n:
        raise InvalidValue(f"best_of ({best_of}) must be at least n ({n})", param="best_of")


def _check_infilling(params: SamplingParams) -> None:
    """Healing takes tokens from the prompt, and says itself how the answer begins."""
    if params.fim_reuse not in ("exact", "shifted"):
        raise InvalidValue(f"fim_reuse must be exact or shifted, not {params.fim_reuse!r}", param="fim_reuse")
    for name in ("prompt_logprobs", "structured_outputs"):
        if params.token_healing and getattr(params, name) is not None:
            raise InvalidValue(f"token_healing cannot be combined with {name}", param="token_healing")


def _check_stops(stop: Any) -> None:
    for text in [stop] if isinstance(stop, str) else _listed("stop", stop):
        if not isinstance(text, str) or not text:
            raise InvalidValue(f"stop must hold strings that are not empty, not {text!r}", param="stop")


def _check_bias(biases: Any) -> None:
    if not isinstance(biases, Mapping | None):
        message = f"logit_bias must be a dictionary of token ids and numbers, not {shown(biases)}"
        raise InvalidValue(message, param="logit_bias")
    for token_id, bias in (biases or {}).items():
        _TOKEN_ID.check("logit_bias", token_id)
        _BIAS.check("logit_bias", bias)


def _listed(name: str, values: Any) -> list[Any]:
    try:
        return [] if values is None else list(values)
    except TypeError:
        raise InvalidValue(f"{name} must be a list, not {shown(values)}", param=name) from None
