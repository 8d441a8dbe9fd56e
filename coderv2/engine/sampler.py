"""Logits to one chosen token per sequence.

The order is vLLM's: logit bias, min_tokens, repetition, frequency and presence penalties, temperature, min_p, top_k,
top_p. Rows go through each operation together, and none of the operations mixes them; each draws one number
from its own random stream. So what is chosen from a row does not depend on the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coderv2.engine.constraint import Constraint
from coderv2.engine.drawing import best, draw
from coderv2.engine.request import MOST_LOGPROBS, Choice, Request, TokenLogprob


@torch.inference_mode()
def sample(logits_BW: Tensor, requests: Sequence[Request]) -> list[Choice]:
    """Chooses for each request from its row of float32 logits, which are finite."""
    return Sampler(logits_BW).choose(range(len(requests)), requests)


@dataclass(frozen=True)
class Drawn:
    """What a pass chose itself, where the numbers lie."""

    token_ids: Sequence[int | None]
    """Of each row; None where its request asks more than that."""
    finite: Sequence[bool]
    """Whether the row's logits are."""


class Sampler:
    """The float32 logits of one forward pass, and choices from its rows."""

    def __init__(self, logits_RW: Tensor, drawn: Drawn | None = None) -> None:
        self._logits_RW = logits_RW
        self._given = drawn.token_ids if drawn else [None] * len(logits_RW)

    def choose(self, rows: Sequence[int], requests: Sequence[Request]) -> list[Choice]:
        """A token for each request from its row, whose numbers are finite."""
        given = {i: token_id for i, row in enumerate(rows) if (token_id := self._given[row]) is not None}
        rest = [i for i in range(len(rows)) if i not in given]
        chosen = self._choose([rows[i] for i in rest], [requests[i] for i in rest]) if rest else []
        choices = {i: Choice(token_id) for i, token_id in given.items()} | dict(
            zip(rest, chosen, strict=True)
        )
        return [choices[i] for i in range(len(rows))]

    def _choose(self, rows: Sequence[int], requests: Sequence[Request]) -> list[Choice]:
        adjusted = {
            i: _adjusted(self._logits_RW[row], request)
            for i, (row, request) in enumerate(zip(rows, requests, strict=True))
            if adjusts(request)
        }
        token_ids = {i: int(row.argmax()) for i, row in adjusted.items() if requests[i].params.greedy}
        token_ids |= self._drawn(rows, requests, adjusted)
        plain = [i for i in range(len(requests)) if i not in token_ids]
        if plain:
            token_ids |= zip(plain, best(self._rows([rows[i] for i in plain])).tolist(), strict=True)
        return self._with_logprobs(rows, [token_ids[i] for i in range(len(requests))], requests)

    def _drawn(
        self, rows: Sequence[int], requests: Sequence[Request], adjusted: dict[int, Tensor]
    ) -> dict[int, int]:
        """The tokens of those requests that draw one."""
        drawing = [i for i, request in enumerate(requests) if not request.params.greedy]
        if not drawing:
            return {}
        if adjusted:
            scores_NW = torch.stack([adjusted.get(i, self._logits_RW[rows[i]]) for i in drawing])
        else:
            scores_NW = self._rows([rows[i] for i in drawing])
        lucks = [requests[i].random.random() for i in drawing]
        return dict(zip(drawing, draw(scores_NW, [requests[i].params for i in drawing], lucks), strict=True))

    def _rows(self, rows: Sequence[int]) -> Tensor:
        """Copied only where they are not all."""
        every = list(rows) == list(range(len(self._logits_RW)))
        return self._logits_RW if every else self._logits_RW[list(rows)]

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


def adjusts(request: Request) -> bool:
    """True when its logits are changed before the choice."""
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
        seen = torch.tensor(sorted(set(request.tokens)), device=scores_W.device)
        old, penalty = scores_W[seen], params.repetition_penalty
        scores_W[seen] = torch.where(old > 0, old / penalty, old * penalty)
    if params.frequency_penalty or params.presence_penalty:
        answer = torch.tensor(
            request.tokens[request.prompt_count :], dtype=torch.long, device=scores_W.device
        )
        counts_W = torch.bincount(answer, minlength=scores_W.shape[0])
        scores_W -= params.frequency_penalty * counts_W + params.presence_penalty * (counts_W > 0)
    return scores_W if request.constraint is None else _constrained(scores_W, logits_W, request.constraint)


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
