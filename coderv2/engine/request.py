"""A request's whole life: the tokens so far, when it ends, and what its reader is told."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from coderv2.engine.constraint import Constraint
from coderv2.engine.drafts import Drafter
from coderv2.engine.luck import Luck
from coderv2.engine.params import MOST_LOGPROBS, SamplingParams
from coderv2.engine.prefix import Chain
from coderv2.text.healing import Healed
from coderv2.text.stream import TextStream
from coderv2.text.tokenizer import Tokenizer

__all__ = ["MOST_LOGPROBS", "Choice", "Delta", "Request", "SamplingParams", "TokenLogprob"]

PROMPT_ROWS = 256
"""Tokens of a prompt whose logits are held at once: 100 MB for a vocabulary of 100,000."""


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
    """What one step added to one answer: a token, or more where drafts were right. The last has a `finish_reason`."""

    request_id: str
    index: int
    text: str = ""
    """Safe to send: no half characters, no part of a stop string. Not aligned with `token_ids`."""
    token_ids: tuple[int, ...] = ()
    """The token that ended the answer is among them."""
    finish_reason: str | None = None
    """stop, length, abort, queue, or error."""
    stop_reason: str | int | None = None
    """With stop: the stop string or stop token that was met; None for the model's own end."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    """With the first token of the first answer: the prompt's, from its second token on."""
    accepted_draft_tokens: int = 0
    """Of `token_ids`, those that were guessed right and cost no step of their own."""
    rejected_draft_tokens: int = 0
    error: str | None = None
    """With queue or error: what went wrong."""
    num_cached_tokens: int = 0
    """Of the prompt's tokens, those found in the cache; for answers after the first, also what the first computed."""

    def followed_by(self, later: "Delta") -> "Delta":
        """Both as one."""
        return replace(
            later,
            text=self.text + later.text,
            token_ids=self.token_ids + later.token_ids,
            logprobs=_joined(self.logprobs, later.logprobs),
            prompt_logprobs=self.prompt_logprobs,
        )


def _joined(
    first: tuple[TokenLogprob, ...] | None, second: tuple[TokenLogprob, ...] | None
) -> tuple[TokenLogprob, ...] | None:
    return None if first is None and second is None else (first or ()) + (second or ())


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
    luck: Luck = field(repr=False)
    """Its own random numbers: what else runs changes nothing."""
    cached: int = 0
    """Tokens whose latents are in `pages`."""
    pages: list[int] = field(default_factory=list)
    salt: bytes = b""
    """Sequences share pages only when this is equal: see `prefix.salt`."""
    drafter: Drafter | None = field(default=None, repr=False)
    """Guesses how the answer goes on."""
    constraint: Constraint | None = field(default=None, repr=False)
    """What the answer may be."""
    healed: Healed = field(default=Healed([]), repr=False)
    """What healing took from the prompt."""
    first: "Request | None" = field(default=None, repr=False)
    """The first of n answers, for the others."""
    order: tuple[float, int] = (0.0, 0)
    """The scheduler's: who is served before whom."""
    shifted: range | None = None
    """Tokens whose latents were taken over from another prompt: neither they nor what follows are exact."""
    num_cached: int | None = None
    """Of the prompt's tokens, those that were in the cache when it first ran."""
    finish_reason: str | None = None
    stop_reason: str | int | None = None

    def __post_init__(self) -> None:
        self.prompt_count = len(self.tokens)
        self.prompt_logprobs: list[TokenLogprob] = []
        self.chain = Chain(self.salt)
        self._stop_ids = frozenset(self.params.stop_token_ids or ())
        self._searching = self.params.min_tokens == 0
        self._text = TextStream(
            self.tokenizer,
            self.params.stops if self._searching else (),
            skip_special=self.params.skip_special_tokens,
            before=self.healed.before,
            after=self.healed.after.decode(),
        )

    @property
    def answer_count(self) -> int:
        """Tokens chosen so far."""
        return len(self.tokens) - self.prompt_count

    @property
    def missing(self) -> int:
        """Tokens that have to pass through the model before the next can be chosen."""
        return len(self.tokens) - self.cached

    @property
    def reads_prompt(self) -> bool:
        """True while the log-probabilities of the prompt are being collected."""
        return self.params.prompt_logprobs is not None and self.index == 0 and self.answer_count == 0

    @property
    def most_at_once(self) -> int:
        """Tokens of one chunk at most: logits of every token take much memory."""
        if self.shifted is not None and self.cached < self.shifted.start:
            return self.shifted.start - self.cached
        return PROMPT_ROWS if self.reads_prompt else len(self.tokens)

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end the answer."""
        return self._stop_ids if self.params.ignore_eos else self._stop_ids | {self.tokenizer.eos_id}

    @property
    def barred_ids(self) -> frozenset[int]:
        """Tokens that must not be chosen now, since they would end the answer before min_tokens."""
        return frozenset() if self.answer_count >= self.params.min_tokens else self.end_ids

    def accept(self, choice: Choice) -> Delta:
        """Takes the chosen token; the delta says whether that was the last."""
        self._start_searching()
        news = {"prompt_logprobs": tuple(self.prompt_logprobs)} if self.reads_prompt else {}
        self.tokens.append(choice.token_id)
        if self.drafter is not None:
            self.drafter.observe()
        if self._ends_at(choice.token_id):
            text = ""
        else:
            text = self._text.push(choice.token_id)
            self._check_text_and_length()
        if self.constraint is not None:
            self._constrain(self.constraint, choice.token_id)
        if self.finish_reason:
            text += self._text.finish()
        logprobs = None if choice.logprob is None else (choice.logprob,)
        return self._delta(text, token_ids=(choice.token_id,), logprobs=logprobs, **news)

    def note_prompt(self, context: int, logprobs: Sequence[TokenLogprob]) -> None:
        """Keeps those of the prompt's tokens after the first `context` + 1."""
        self.prompt_logprobs[context:] = logprobs

    def found(self, tokens: int, shifted: range | None = None) -> None:
        """So many of its tokens are in the cache already, as it starts to run, and inexactly those of `shifted`."""
        self.shifted = shifted
        if self.num_cached is None:
            self.num_cached = tokens + len(shifted or ())
        self.reach(tokens)

    def reach(self, tokens: int) -> None:
        """So many of its tokens are in the cache now, and those after them that were taken over."""
        at_seam = self.shifted is not None and tokens == self.shifted.start
        self.cached = self.shifted.stop if self.shifted is not None and at_seam else tokens

    @property
    def exact(self) -> int:
        """Its first tokens whose latents are what they would be in any other sequence that starts so."""
        return len(self.tokens) if self.shifted is None else self.shifted.start

    def expire(self) -> Delta:
        """Ends it at its deadline, with what there is."""
        self.finish_reason = "length"
        return self._delta(self._text.finish())

    def abort(self) -> Delta:
        """Ends it early; the delta brings the text that was held back."""
        self.finish_reason = "abort"
        return self._delta(self._text.finish())

    def give_up(self, message: str) -> Delta:
        """Ends it in the queue, where it has waited too long."""
        self.finish_reason = "queue"
        return self._delta("", error=message)

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

    def _constrain(self, constraint: Constraint, token_id: int) -> None:
        if self.finish_reason is None:
            constraint.accept(token_id)
            if constraint.finished:
                self.finish_reason = "stop"
            if constraint.spent:
                self.constraint = None

    def _start_searching(self) -> None:
        """From min_tokens on, and once no character is half sent, text is searched for stop strings."""
        if self._searching or self.answer_count < self.params.min_tokens:
            return
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token_id in self.tokens[self.prompt_count :]:
            decoder.decode(self.tokenizer.token_bytes(token_id))
        if not decoder.getstate()[0]:
            self._text.search(self.params.stops)
            self._searching = True

    def _delta(self, text: str, **news: Any) -> Delta:
        return Delta(
            self.id,
            self.index,
            text,
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            num_cached_tokens=self.num_cached or 0,
            **news,
        )
