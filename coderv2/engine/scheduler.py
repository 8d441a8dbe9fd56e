"""Who runs in the next step, and with how many tokens.

Sequences are served in the order of their arrival: `running` from oldest to youngest, and everything in `running` is
older than everything in `waiting`. A step's token budget goes to them in that order. So answers, which need one token
each, come before prompts: no prompt gets anything until those before it are whole in the cache.

A sequence is admitted when pages for all its tokens are free, and takes them at once. When an answer outgrows its
pages and none is free, the youngest sequence gives all of its pages back and waits at the head of the queue; its
tokens, the answer's included, pass through the model again later. The oldest can so always go on, since the engine
refuses what could never fit the whole cache: nothing waits for ever.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from coderv2.engine.pages import Pages
from coderv2.engine.request import Request


@dataclass(frozen=True)
class Chunk:
    """Tokens of one sequence that pass through the model in this step."""

    request: Request
    context: int
    """Tokens of the sequence that are in the cache before the step."""
    token_ids: list[int]

    @property
    def end(self) -> int:
        """Tokens in the cache after the step."""
        return self.context + len(self.token_ids)

    @property
    def completes(self) -> bool:
        """True when the step brings the logits from which the next token is chosen."""
        return self.end == len(self.request.tokens)


class Scheduler:
    """Two queues and a budget; `max_batch_tokens` is at least `max_running`, so that every answer can advance."""

    def __init__(self, pages: Pages, *, max_batch_tokens: int, max_running: int) -> None:
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self._pages = pages
        self._max_batch_tokens = max_batch_tokens
        self._max_running = max_running

    def add(self, requests: Iterable[Request]) -> None:
        """Queues new sequences."""
        self.waiting.extend(requests)

    def remove(self, request: Request) -> None:
        """Forgets a sequence that has ended; its pages are free when this returns."""
        queue = self.running if request in self.running else self.waiting
        queue.remove(request)
        self._pages.release(request.pages)

    def plan(self) -> list[Chunk]:
        """The next step's chunks, with pages for all of their tokens; empty when there is nothing to do."""
        self._make_room()
        self._admit()
        return self._share_budget()

    def _make_room(self) -> None:
        """Pages for every running sequence's newest token; the youngest pay where none is free."""
        for request in tuple(self.running):
            while request in self.running and not self._pages.grow(request.pages, len(request.tokens)):
                self._preempt()

    def _preempt(self) -> None:
        youngest = self.running.pop()
        self._pages.release(youngest.pages)
        youngest.cached = 0
        self.waiting.appendleft(youngest)

    def _admit(self) -> None:
        """Takes sequences in while the step's budget, the places and the pages last."""
        load = sum(request.missing for request in self.running)
        while self.waiting and load < self._max_batch_tokens and len(self.running) < self._max_running:
            if not self._pages.grow(self.waiting[0].pages, len(self.waiting[0].tokens)):
                return
            self.running.append(self.waiting.popleft())
            load += self.running[-1].missing

    def _share_budget(self) -> list[Chunk]:
        budget = self._max_batch_tokens
        chunks: list[Chunk] = []
        for request in self.running:
            count = min(request.missing, budget)
            if count:
                token_ids = request.tokens[request.cached : request.cached + count]
                chunks.append(Chunk(request, request.cached, token_ids))
            budget -= count
        return chunks
