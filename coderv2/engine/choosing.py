"""From the logits of a step to the tokens that its sequences take, drafted ones checked on the way.

The sampler chooses from the logits before a drafted token just as it would without the draft, with the next number of
the request's own random stream. If it chooses the drafted token, the logits after that are the ones that plain decoding
would have come to, and the same is done there; if not, its choice is taken and the rest of the draft dropped. So an
answer is the same with any draft and with none, at every temperature.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from coderv2.engine.request import Choice, Delta
from coderv2.engine.sampler import Said, Sampler
from coderv2.engine.scheduler import Chunk

NOT_FINITE = "the model's logits are not finite: damaged weights, or an overflow"


@torch.inference_mode()
def take(logits_RW: Tensor, chunks: Sequence[Chunk], said: Said | None = None) -> list["Turn"]:
    """Moves every chunk's request on by what its rows of `logits_RW` say.

    `said` is given where the pass has chosen already. A request whose logits are not finite, or whose
    constraint gave up, ends with an error, and no other does.
    """
    sampler = Sampler(logits_RW, said)
    ends = accumulate(chunk.rows for chunk in chunks)
    turns = [Turn(chunk, end - 1 - len(chunk.draft)) for chunk, end in zip(chunks, ends, strict=True)]
    going = [turn for turn in turns if turn.begin(sampler)]
    while going:
        choices = sampler.choose([turn.row for turn in going], [turn.chunk.request for turn in going])
        pairs = zip(going, choices, strict=True)
        going = [turn for turn, choice in pairs if turn.accept(choice, sampler)]
    for turn in turns:
        turn.count_drafts()
    return turns


@dataclass
class Turn:
    """One sequence's part of a step."""

    chunk: Chunk
    row: int
    """The row that the next token is chosen from."""
    taken: int = 0
    """Drafted tokens that proved right."""
    delta: Delta | None = None
    """What the step added to the answer, if anything."""

    @property
    def failed(self) -> bool:
        """True when the request ended with an error."""
        return self.chunk.request.finish_reason == "error"

    def begin(self, sampler: Sampler) -> bool:
        """True when a token is to be chosen."""
        request, chunk = self.chunk.request, self.chunk
        if not all(sampler.finite[self.row + 1 + len(chunk.draft) - chunk.rows : self.row + 1]):
            self.delta = request.fail(NOT_FINITE)
            return False
        if request.reads_prompt:
            followers = request.tokens[chunk.context + 1 : chunk.end + 1]
            first, count = self.row + 1 - len(chunk.token_ids), request.params.prompt_logprobs or 0
            request.note_prompt(chunk.context, sampler.logprobs(first, followers, count))
        return chunk.completes

    def accept(self, choice: Choice, sampler: Sampler) -> bool:
        """Takes one token; True when the draft foresaw it, so that another can be chosen."""
        request, draft = self.chunk.request, self.chunk.draft
        if request.constraint is not None and request.constraint.error is not None:
            self._add(request.fail(request.constraint.error))
            return False
        self._add(request.accept(choice))
        if self.taken == len(draft) or draft[self.taken] != choice.token_id:
            return False
        self.taken += 1
        self.row += 1
        if request.finish_reason is None and not sampler.finite[self.row]:
            self._add(request.fail(NOT_FINITE))
        return request.finish_reason is None

    def _add(self, delta: Delta) -> None:
        if self.delta is not None:
            delta = self.delta.followed_by(delta)
        self.delta = delta

    def count_drafts(self) -> None:
        """Writes into the delta what became of the draft."""
        if self.delta is not None and self.chunk.draft:
            missed = len(self.chunk.draft) - self.taken
            self.delta = replace(self.delta, accepted_draft_tokens=self.taken, rejected_draft_tokens=missed)
