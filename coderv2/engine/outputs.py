"""What `LLM` returns, under vLLM's names, filled in from an engine's deltas."""

from dataclasses import dataclass, field

from coderv2.engine.request import Delta, TokenLogprob
from coderv2.errors import ServiceError
from coderv2.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Logprob:
    """One token's log-probability at one place of an answer."""

    logprob: float
    rank: int
    decoded_token: str


@dataclass
class CompletionOutput:
    """One answer."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    """The token that ended the answer is among them; its text is not in `text`."""
    cumulative_logprob: float | None = None
    """With `logprobs` set, as the next field."""
    logprobs: list[dict[int, Logprob]] | None = None
    """For each token the likeliest ones and itself, by id."""
    finish_reason: str | None = None
    """stop or length."""
    stop_reason: str | int | None = None


@dataclass
class RequestOutput:
    """A prompt and its n answers."""

    request_id: str
    prompt: str | None
    """None where token ids were given."""
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    """With `prompt_logprobs` set: for each token of the prompt the likeliest ones and itself; None for the first."""
    num_cached_tokens: int | None = None
    """Of the prompt's tokens, those that were in the cache already."""

    @property
    def finished(self) -> bool:
        """True: what `LLM` returns has ended."""
        return all(output.finish_reason for output in self.outputs)


def add(output: RequestOutput, delta: Delta, tokenizer: Tokenizer) -> None:
    """Puts what came of one answer into its place. Raises ServiceError for an answer that failed."""
    if delta.error is not None:
        raise ServiceError(f"request {output.request_id}: {delta.error}")
    if delta.index == 0:
        output.num_cached_tokens = delta.num_cached_tokens
    if delta.prompt_logprobs is not None:
        output.prompt_logprobs = [None, *(_by_id(place, tokenizer) for place in delta.prompt_logprobs)]
    answer = output.outputs[delta.index]
    answer.text += delta.text
    answer.token_ids += delta.token_ids
    answer.finish_reason, answer.stop_reason = delta.finish_reason, delta.stop_reason
    if delta.logprobs is not None:
        answer.logprobs = (answer.logprobs or []) + [_by_id(place, tokenizer) for place in delta.logprobs]
        answer.cumulative_logprob = (answer.cumulative_logprob or 0.0) + sum(
            p.logprob for p in delta.logprobs
        )


def _by_id(place: TokenLogprob, tokenizer: Tokenizer) -> dict[int, Logprob]:
    ranked = {token_id: (value, rank) for rank, (token_id, value) in enumerate(place.top, 1)}
    ranked.setdefault(place.token_id, (place.logprob, place.rank))
    return {
        token_id: Logprob(value, rank, tokenizer.decode([token_id], skip_special=False))
        for token_id, (value, rank) in ranked.items()
    }
