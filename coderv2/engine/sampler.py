"""Logits to one chosen token per sequence.

The order is vLLM's: logit bias, min_tokens, repetition, frequency and presence penalties, temperature, min_p, top_k,
top_p. No operation mixes rows, and each draws one number from its own random stream: what is chosen from a row does
not depend on the others.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from coderv2.engine.constraint import Constraint
from coderv2.engine.request import MOST_LOGPROBS, Choice, Request, TokenLogprob
from coderv2.kernels import sampling
from coderv2.kernels.drawing import Rule

Said = tuple[Sequence[int], Sequence[bool]]
"""What a pass found in its logits: each row's token as `rule_in_step` has it chosen, and whether all are finite."""
GREEDY = Rule(temperature=0)
"""Takes the likeliest token."""

_LARGEST = torch.finfo(torch.float32).max


@torch.inference_mode()
def sample(logits_BW: Tensor, requests: Sequence[Request]) -> list[Choice]:
    """Chooses for each request from its row of float32 logits, which are finite."""
    return Sampler(logits_BW).choose(range(len(requests)), requests)


class Sampler:
    """The float32 logits of one forward pass, and choices from its rows."""

    def __init__(self, logits_RW: Tensor, said: Said | None = None) -> None:
        """`said` where the pass has chosen already."""
        self._logits_RW = logits_RW
        self._chose = said is not None
        self._tokens, self.finite = said or sampling.peaks(logits_RW)
        """`finite`: of each row, whether all its numbers are."""

    def choose(self, rows: Sequence[int], requests: Sequence[Request]) -> list[Choice]:
        """A token for each request from its row, whose numbers are finite."""
        adjusted = {
            i: _adjusted(self._logits_RW[row], request)
            for i, (row, request) in enumerate(zip(rows, requests, strict=True))
            if _adjusts(request)
        }
        drawing = [
            i
            for i, request in enumerate(requests)
            if not request.params.greedy and (i in adjusted or not self._chose)
        ]
        scores = [adjusted[i] if i in adjusted else self._logits_RW[rows[i]] for i in drawing]
        drawn = sampling.draw(scores, [_rule(requests[i], requests[i].answer_count) for i in drawing])
        chosen = {i: int(scores_W.argmax()) for i, scores_W in adjusted.items()}
        chosen |= zip(drawing, drawn, strict=True)
        token_ids = [chosen.get(i, self._tokens[row]) for i, row in enumerate(rows)]
        return self._with_logprobs(rows, token_ids, requests)

    def logprobs(self, first: int, token_ids: Sequence[int], count: int) -> list[TokenLogprob]:
        """Of each of these tokens after the row that precedes it, from row `first` on."""
        rows_NW = self._logits_RW[first : first + len(token_ids)]
        return _logprobs(rows_NW, token_ids, [count] * len(token_ids)) if token_ids else []

    def _with_logprobs(
        self, rows: Sequence[int], token_ids: Sequence[int], requests: Sequence[Request]
    ) -> list[Choice]:
        choices = [Choice(token_id) for token_id in token_ids]
        counts = {i: count for i, r in enumerate(requests) if (count := r.params.logprobs) is not None}
        if counts:
            logits_NW = self._logits_RW[[rows[i] for i in counts]]
            found = _logprobs(logits_NW, [token_ids[i] for i in counts], list(counts.values()))
            for i, logprob in zip(counts, found, strict=True):
                choices[i] = Choice(token_ids[i], logprob)
        return choices


def rule_in_step(request: Request, place: int) -> Rule:
    """How the answer's token at `place` is chosen from logits as they stand; GREEDY where they are changed first."""
    return GREEDY if request.params.greedy or _adjusts(request) else _rule(request, place)


def needs_logits(request: Request) -> bool:
    """True where the token alone is not enough: the logits are changed before a choice, or some are to be told."""
    return request.params.logprobs is not None or _adjusts(request)


def _rule(request: Request, place: int) -> Rule:
    params = request.params
    top_k = min(max(params.top_k, 0), 1 << 32)  # any number of Python's would not fit
    return Rule(params.temperature, top_k, params.top_p, params.min_p, request.luck.at(place))


def _adjusts(request: Request) -> bool:
    params = request.params
    penalties = params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1
    return bool(penalties or params.logit_bias or request.barred_ids or request.constraint)


def _adjusted(logits_W: Tensor, request: Request) -> Tensor:
    scores_W, params = logits_W.clone(), request.params
    if params.logit_bias:
        scores_W[list(params.logit_bias)] += torch.tensor(
            list(params.logit_bias.values()), device=scores_W.device
        )
    if request.barred_ids:
        scores_W[list(request.barred_ids)] = float("-inf")
    if params.repetition_penalty != 1:
        _penalise_repetition(scores_W, request.tokens, params.repetition_penalty)
    if params.frequency_penalty or params.presence_penalty:
        answer = torch.tensor(request.tokens[request.prompt_count :], dtype=torch.long)
        ids, counts = (found.to(scores_W.device) for found in answer.unique(return_counts=True))
        scores_W[ids] -= params.frequency_penalty * counts + params.presence_penalty
    return scores_W if request.constraint is None else _constrained(scores_W, logits_W, request.constraint)


def _penalise_repetition(scores_W: Tensor, tokens: Sequence[int], penalty: float) -> None:
    seen = torch.tensor(tokens).unique().to(scores_W.device)
    old = scores_W[seen]
    new = torch.where(old > 0, old / penalty, old * penalty)
    # An extreme penalty must not make a score infinite that was not.
    scores_W[seen] = torch.where(old.isfinite(), new.clamp(-_LARGEST, _LARGEST), old)


def _constrained(scores_W: Tensor, logits_W: Tensor, constraint: Constraint) -> Tensor:
    """Tokens that the constraint rules out lose all chance; where everything else is barred, it has the last word."""
    allowed_W = constraint.allowed()
    if allowed_W is None:
        return scores_W
    allowed_W = allowed_W.to(scores_W.device)
    left_W = scores_W.masked_fill(~allowed_W, float("-inf"))
    return left_W if left_W.max() > float("-inf") else logits_W.masked_fill(~allowed_W, float("-inf"))


def _logprobs(logits_NW: Tensor, token_ids: Sequence[int], counts: Sequence[int]) -> list[TokenLogprob]:
    """Of each row's token, with the `counts[i]` likeliest of the row."""
    logprobs_NW = logits_NW.log_softmax(-1)
    own_N1 = logprobs_NW.gather(1, torch.tensor(token_ids, device=logits_NW.device)[:, None])
    ranks = ((logprobs_NW > own_N1).sum(-1) + 1).tolist()
    # As many for every row, so that the order of equals does not depend on what a neighbour asked for.
    top = logprobs_NW.topk(min(MOST_LOGPROBS, logits_NW.shape[1]))
    tops = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    found = zip(token_ids, own_N1.flatten().tolist(), ranks, tops, counts, strict=True)
    return [
        TokenLogprob(token_id, own, rank, tuple(zip(ids[:count], values[:count], strict=True)))
        for token_id, own, rank, (ids, values), count in found
    ]
