"""Logits to one chosen token per sequence.

The order is vLLM's: logit bias, min_tokens, repetition, frequency and presence penalties, temperature, min_p, top_k,
top_p. Each row is treated by itself and draws one number from its own random stream, so no row depends on another.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from coderv2.engine.request import Choice, Request, SamplingParams, TokenLogprob


@torch.inference_mode()
def sample(logits_BW: Tensor, requests: Sequence[Request]) -> list[Choice]:
    """Chooses for each request from its row of float32 logits, which are finite."""
    best_B = logits_BW.argmax(-1).tolist()
    rows = zip(logits_BW, best_B, requests, strict=True)
    return [
        Choice(best) if _is_argmax(request) else _choose(logits_W, request)
        for logits_W, best, request in rows
    ]


def _is_argmax(request: Request) -> bool:
    return request.params.greedy and request.params.logprobs is None and not _adjusts(request)


def _adjusts(request: Request) -> bool:
    params = request.params
    penalties = params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1
    return bool(penalties or params.logit_bias or request.barred_ids)


def _choose(logits_W: Tensor, request: Request) -> Choice:
    params = request.params
    scores_W = _adjusted(logits_W, request) if _adjusts(request) else logits_W
    token_id = int(scores_W.argmax()) if params.greedy else _draw(scores_W, params, request.random.random())
    return Choice(
        token_id, None if params.logprobs is None else _logprob(logits_W, token_id, params.logprobs)
    )


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
    return scores_W


def _draw(scores_W: Tensor, params: SamplingParams, luck: float) -> int:
    """The token at `luck`, from 0 to 1, on the line along which the kept tokens lie, each as long as it is likely."""
    # With the maximum taken off, no small temperature makes an infinity, unless float32 rounds it to 0.
    temperature = max(params.temperature, torch.finfo(torch.float32).tiny)
    probs_W = ((scores_W - scores_W.max()) / temperature).softmax(-1)
    probs_N, ids_N, mass = _shortlist(probs_W, params)
    line_N = probs_N.cumsum(-1, dtype=torch.float64)
    if params.top_p < 1:
        line_N = line_N[: int(torch.searchsorted(line_N, params.top_p * mass)) + 1]
    place = int(torch.searchsorted(line_N, luck * float(line_N[-1]), right=True))
    return int(ids_N[min(place, line_N.shape[0] - 1)])


def _shortlist(probs_W: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor, float]:
    """Tokens that min_p and top_k leave, best first, and their summed probability.

    Tokens below (1 - top_p) · mass / W are left out too: all of them together weigh less than what top_p cuts off, so
    the sort, which would be the dearest step for a vocabulary of 100,000, only sees those that may be kept.
    """
    if params.min_p:
        probs_W = probs_W * (probs_W >= params.min_p * probs_W.max())
    if params.top_k > 0:
        top = probs_W.topk(min(params.top_k, probs_W.shape[0]))
        return top.values, top.indices, float(top.values.sum(dtype=torch.float64))
    mass = float(probs_W.sum(dtype=torch.float64))
    ids_N = (probs_W > (1 - params.top_p) * mass / probs_W.shape[0]).nonzero().flatten()
    if params.top_p == 1:
        return probs_W[ids_N], ids_N, mass
    probs_N, order_N = probs_W[ids_N].sort(descending=True, stable=True)
    return probs_N, ids_N[order_N], mass


def _logprob(logits_W: Tensor, token_id: int, count: int) -> TokenLogprob:
    logprobs_W = logits_W.log_softmax(-1)
    own = logprobs_W[token_id]
    top = logprobs_W.topk(count)
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return TokenLogprob(token_id, float(own), int((logprobs_W > own).sum()) + 1, tuple(pairs))
