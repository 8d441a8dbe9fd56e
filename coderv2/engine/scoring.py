"""Log-probabilities of given sequences, read beside the requests that are open."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from coderv2.engine.open_requests import OpenRequests
from coderv2.engine.request import Delta, SamplingParams
from coderv2.errors import ServiceError

_SCORING = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, prompt_logprobs=0)


def score(
    requests: OpenRequests, step: Callable[[], list[Delta]], sequences: Sequence[Sequence[int]]
) -> list[list[float]]:
    """Of each sequence's tokens but the first, given those before; other requests hear later what `step` brought."""
    scores: list[list[float]] = [[] for _ in sequences]
    places: dict[str, int] = {}
    others: list[Delta] = []
    try:
        for place, delta in _scored(requests, step, sequences, places, others):
            scores[place] = _logprobs(delta)
    finally:
        for request_id in places:
            requests.abort(request_id)
        requests.tell_later(others, without=places)
    return scores


def _scored(
    requests: OpenRequests,
    step: Callable[[], list[Delta]],
    sequences: Sequence[Sequence[int]],
    places: dict[str, int],
    others: list[Delta],
) -> Iterator[tuple[int, Delta]]:
    """Place and delta of each sequence when done; `places` holds those under way, `others` what is not theirs."""
    ahead = deque(enumerate(sequences))
    while ahead or places:
        while ahead and not requests.full():
            place, ids = ahead.popleft()
            places[requests.add(ids, _SCORING)] = place
        deltas = step()
        others += (delta for delta in deltas if delta.request_id not in places)
        for delta in deltas:
            if delta.request_id in places:
                yield places.pop(delta.request_id), delta


def _logprobs(delta: Delta) -> list[float]:
    if delta.error is not None:
        raise ServiceError(delta.error)
    return [place.logprob for place in delta.prompt_logprobs or ()]
