"""A request's whole life: what is asked for, the tokens so far, when it ends, and what its reader is told."""

import codecs
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from coderv2.errors import InvalidValue
from coderv2.text.stream import TextStream
from coderv2.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How an answer's tokens are chosen and when it ends; names and defaults are vLLM's.

    Raises InvalidValue, whose `param` names the field, for anything out of range.
    """

    n: int = 1
    """Answers to the prompt, each with a random stream of its own."""
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
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        for name, allowed in _RANGES.items():
            allowed.check(name, getattr(self, name))
        for name in ("ignore_eos", "skip_special_tokens"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidValue(f"{name} must be true or false, not {getattr(self, name)!r}", param=name)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            message = f"min_tokens ({self.min_tokens}) must not exceed max_tokens ({self.max_tokens})"
            raise InvalidValue(message, param="min_tokens")
        _check_stops(self.stop)
        for token_id in self.stop_token_ids or ():
            _TOKEN_ID.check("stop_token_ids", token_id)
        for token_id, bias in (self.logit_bias or {}).items():
            _TOKEN_ID.check("logit_bias", token_id)
            _BIAS.check("logit_bias", bias)

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
    high: float = math.inf
    whole: bool = False
    optional: bool = False
    above_low: bool = False

    def check(self, name: str, value: Any) -> None:
        if value is None and self.optional:
            return
        kinds = (int,) if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not self._holds(value):
            raise InvalidValue(f"{name} must be {self}, not {value!r}", param=name)

    def _holds(self, value: float) -> bool:
        # Finite is checked first, so that neither NaN nor infinity passes an open end.
        if not math.isfinite(value) or value > self.high:
            return False
        return value > self.low if self.above_low else value >= self.low

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        start = f"above {self.low:g}" if self.above_low else f"from {self.low:g}"
        end = "" if math.isinf(self.high) else f" to {self.high:g}"
        return f"{kind} {start}{end}" + (" or None" if self.optional else "")


_TOKEN_ID = _Range(0, whole=True)
_BIAS = _Range(-100, 100)
_RANGES = {
    "n": _Range(1, whole=True),
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
    "logprobs": _Range(0, 20, whole=True, optional=True),
}


def _check_stops(stop: Any) -> None:
    stops = [stop] if isinstance(stop, str) else list(stop or ())
    for text in stops:
        if not isinstance(text, str) or not text:
            raise InvalidValue(f"stop must hold strings that are not empty, not {text!r}", param="stop")


@dataclass(frozen=True)
class TokenLogprob:
    """One chosen token's log-probability under the model itself, before penalties and temperature."""

    token_id: int
    logprob: float
    rank: int
    """1 for the likeliest."""
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens and their log-probabilities, best first; as many as asked for."""


@dataclass(frozen=True)
class Choice:
    """What the sampler chose for one sequence."""

    token_id: int
    logprob: TokenLogprob | None = None


@dataclass(frozen=True)
class Delta:
    """What one step added to one answer. The last of an answer has a `finish_reason`."""

    request_id: str
    index: int
    text: str = ""
    """Safe to send: no half characters, no part of a stop string. Not aligned with `token_ids`."""
    token_ids: tuple[int, ...] = ()
    """The token that ended the answer is among them."""
    finish_reason: str | None = None
    """stop, length, abort, or error."""
    stop_reason: str | int | None = None
    """With stop: the stop string or stop token that was met; None for the model's own end."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    error: str | None = None
    """With error: what went wrong."""


@dataclass(eq=False)
class Request:
    """One answer being made. A submission with n > 1 is n of these, of the same id."""

    id: str
    index: int
    params: SamplingParams
    tokens: list[int]
    """Prompt, then answer."""
    limit: int
    """The answer's tokens at most."""
    tokenizer: Tokenizer = field(repr=False)
    random: Random = field(repr=False)
    """Its own random stream: what else runs changes nothing."""
    cached: int = 0
    """Tokens whose latents are in `pages`."""
    pages: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None

    def __post_init__(self) -> None:
        self.prompt_count = len(self.tokens)
        self._stop_ids = frozenset(self.params.stop_token_ids or ())
        self._searching = self.params.min_tokens == 0
        self._text = self._stream(self.params.stops if self._searching else ())

    @property
    def answer_count(self) -> int:
        """Tokens chosen so far."""
        return len(self.tokens) - self.prompt_count

    @property
    def missing(self) -> int:
        """Tokens that have to pass through the model before the next can be chosen."""
        return len(self.tokens) - self.cached

    @property
    def barred_ids(self) -> frozenset[int]:
        """Tokens that must not be chosen now, since they would end the answer before min_tokens."""
        if self.answer_count >= self.params.min_tokens:
            return frozenset()
        return self._stop_ids if self.params.ignore_eos else self._stop_ids | {self.tokenizer.eos_id}

    def accept(self, choice: Choice) -> Delta:
        """Takes the chosen token; the delta says whether that was the last."""
        self._start_searching()
        self.tokens.append(choice.token_id)
        if self._ends_at(choice.token_id):
            text = ""
        else:
            text = self._text.push(choice.token_id)
            self._check_text_and_length()
        if self.finish_reason:
            text += self._text.finish()
        logprobs = None if choice.logprob is None else (choice.logprob,)
        return self._delta(text, token_ids=(choice.token_id,), logprobs=logprobs)

    def abort(self) -> Delta:
        """Ends it early; the delta brings the text that was held back."""
        self.finish_reason = "abort"
        return self._delta(self._text.finish())

    def fail(self, message: str) -> Delta:
        """Ends it because something broke that is not the caller's fault."""
        self.finish_reason = "error"
        return self._delta("", error=message)

    def _ends_at(self, token_id: int) -> bool:
        if token_id == self.tokenizer.eos_id and not self.params.ignore_eos:
            self.finish_reason = "stop"
        elif token_id in self._stop_ids:
            self.finish_reason, self.stop_reason = "stop", token_id
        return self.finish_reason is not None

    def _check_text_and_length(self) -> None:
        if self._text.stopped is not None:
            self.finish_reason, self.stop_reason = "stop", self._text.stopped
        elif self.answer_count >= self.limit:
            self.finish_reason = "length"

    def _start_searching(self) -> None:
        """From min_tokens on, and once no character is half sent, text is searched for stop strings."""
        if self._searching or self.answer_count < self.params.min_tokens:
            return
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token_id in self.tokens[self.prompt_count :]:
            decoder.decode(self.tokenizer.token_bytes(token_id))
        if not decoder.getstate()[0]:
            self._text, self._searching = self._stream(self.params.stops), True

    def _stream(self, stops: Sequence[str]) -> TextStream:
        return TextStream(self.tokenizer, stops, skip_special=self.params.skip_special_tokens)

    def _delta(self, text: str, **news: Any) -> Delta:
        return Delta(
            self.id, self.index, text, finish_reason=self.finish_reason, stop_reason=self.stop_reason, **news
        )
