"""`best_of`: more answers are made than are wanted, and those that the model finds likeliest are given."""

from collections.abc import Iterable
from dataclasses import replace

from coderv2.engine.request import Delta, SamplingParams


class Contest:
    """Holds the answers of one submission back until all have ended."""

    def __init__(self, params: SamplingParams) -> None:
        self._params = params
        self._answers: dict[int, Delta] = {}
        self._open = set(range(params.answers))

    def add(self, delta: Delta) -> list[Delta]:
        """Nothing until the last answer's last delta; then the best n, each whole, best first."""
        before = self._answers.get(delta.index)
        self._answers[delta.index] = delta if before is None else _joined(before, delta)
        if delta.finish_reason:
            self._open.discard(delta.index)
        return [] if self._open else self._best()

    def _best(self) -> list[Delta]:
        ranked = sorted(self._answers.values(), key=_likelihood, reverse=True)[: self._params.n]
        cached = self._answers[0].num_cached_tokens
        best = [replace(answer, index=index, num_cached_tokens=cached) for index, answer in enumerate(ranked)]
        best[0] = replace(best[0], prompt_logprobs=self._answers[0].prompt_logprobs)
        if self._params.logprobs is None:
            return [replace(answer, logprobs=None) for answer in best]
        return best


def scored(params: SamplingParams) -> SamplingParams:
    """The same with the log-probabilities that a contest needs."""
    if params.answers == params.n or params.logprobs is not None:
        return params
    return replace(params, logprobs=0)


def _joined(before: Delta, after: Delta) -> Delta:
    joined = before.followed_by(after)
    return replace(
        joined,
        accepted_draft_tokens=before.accepted_draft_tokens + after.accepted_draft_tokens,
        rejected_draft_tokens=before.rejected_draft_tokens + after.rejected_draft_tokens,
    )


def _likelihood(answer: Delta) -> tuple[bool, float]:
    """OpenAI's measure, log-probability per token; what failed or was cut off by its caller comes last."""
    places = answer.logprobs or ()
    mean = sum(place.logprob for place in places) / len(places) if places else float("-inf")
    return answer.finish_reason in ("stop", "length"), mean


def through(contests: dict[str, Contest], deltas: Iterable[Delta]) -> list[Delta]:
    """The deltas that may be told now; a contest that is over leaves the dictionary."""
    told: list[Delta] = []
    for delta in deltas:
        contest = contests.get(delta.request_id)
        if contest is None:
            told.append(delta)
        elif best := contest.add(delta):
            del contests[delta.request_id]
            told += best
    return told
