"""Who runs in the next step, and with how many tokens.

Sequences are served in one order: by arrival, where each level of priority counts as `PATIENCE` seconds of it. So
nobody waits for ever: whatever comes later than that has to stand behind. `running` and `waiting` are both kept in
this order. A step's token budget goes first to answers, which need one token each, then to prompts in order: no prompt
gets anything until those before it are whole in the cache.

A sequence is admitted when pages for all its tokens are available, and takes them at once; what others have computed
of its start it shares (`pages`). If a page that it could share is just being computed, it waits for that; later ones
may pass. When pages or places run out, the last in order gives its pages back and waits; its tokens, the answer's
included, are looked up or pass through the model again. The first in order can so always go on, since the engine
refuses what could never fit the whole cache.
"""

from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count

from coderv2.engine.pages import Pages
from coderv2.engine.request import Request

PATIENCE = 30.0
"""Seconds of waiting that one level of priority is worth."""


@dataclass(frozen=True)
class Chunk:
    """Tokens of one sequence that pass through the model in this step."""

    request: Request
    context: int
    """Tokens of the sequence that are in the cache before the step."""
    token_ids: list[int]
    draft: tuple[int, ...] = ()
    """Guesses at the tokens after those, whose logits are wanted too; none while the prompt's own are."""

    @property
    def rows(self) -> int:
        """Tokens at the chunk's end, the draft's included, whose logits are wanted."""
        return len(self.token_ids) if self.request.reads_prompt else 1 + len(self.draft)

    @property
    def end(self) -> int:
        """Tokens in the cache after the step, those drafted not counted."""
        return self.context + len(self.token_ids)

    @property
    def completes(self) -> bool:
        """True when the step brings the logits from which the next token is chosen."""
        return self.end == len(self.request.tokens)


def _order(request: Request) -> tuple[float, int]:
    return request.order


class Scheduler:
    """Two queues and a budget; `max_batch_tokens` is at least `max_running`, so that every answer can advance."""

    def __init__(
        self,
        pages: Pages,
        *,
        max_batch_tokens: int,
        max_running: int,
        copy_page: Callable[[int, int], None],
        take_over: Callable[[Request, int], range | None] = lambda request, found: None,
    ) -> None:
        """`copy_page(source, target)` copies a page's content before the next forward pass.

        `take_over(request, found)` may fill more of its pages than the first `found` tokens; see `shifted`.
        """
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self._pages = pages
        self._max_batch_tokens = max_batch_tokens
        self._max_running = max_running
        self._copy_page = copy_page
        self._take_over = take_over
        self._serial = count()
        self.prompt_tokens = 0
        """Of all requests that have started."""
        self.cached_tokens = 0
        """Those of them that were found in the cache."""

    def add(self, requests: Iterable[Request], *, arrival: float = 0.0, priority: int = 0) -> None:
        """Queues new sequences; a lower priority is served first."""
        for request in requests:
            request.order = (arrival + priority * PATIENCE, next(self._serial))
            insort(self.waiting, request, key=_order)

    def remove(self, request: Request) -> None:
        """Forgets a sequence that has ended; its pages are available when this returns."""
        queue = self.running if request in self.running else self.waiting
        queue.remove(request)
        self._pages.release(request.pages)

    def preempt_all(self) -> None:
        """Sends every running sequence back to the queue without its pages."""
        while self.running:
            self._preempt()

    def plan(self) -> list[Chunk]:
        """The next step's chunks, with pages for all of their tokens; empty when there is nothing to do."""
        self._make_room()
        self._admit()
        return self._share_budget()

    def settle(self, chunk: Chunk, drafted: int = 0) -> None:
        """Marks a chunk's tokens as cached, so many drafted ones too, and lets others share the pages they filled."""
        request, end = chunk.request, chunk.end + drafted
        size = self._pages.page_size
        first, full = request.cached // size, end // size
        request.reach(end)
        full = min(full, request.exact // size)
        if full > first:
            digests = request.chain.digests(request.tokens, size, full)
            for place in range(first, full):
                self._pages.publish(request.pages[place], digests[place])

    def _make_room(self) -> None:
        """Pages for every running sequence's newest token; the last in order pay where none is available."""
        size = self._pages.page_size
        for request in tuple(self.running):
            if len(request.tokens) <= len(request.pages) * size:
                continue
            while request in self.running and not self._pages.grow(request.pages, len(request.tokens)):
                self._preempt()

    def _preempt(self) -> None:
        last = self.running.pop()
        self._pages.release(last.pages)
        last.cached = 0
        insort(self.waiting, last, key=_order)

    def _admit(self) -> None:
        """Takes sequences in while the step's budget, the places and the pages last."""
        # No more are looked at than could run, so that a long queue waiting for one prefix costs little.
        for request in self.waiting[: self._max_running]:
            if self._load_before(request) >= self._max_batch_tokens:
                return
            if not self._awaits_another(request) and not self._enter(request):
                return

    def _load_before(self, request: Request) -> int:
        """Budget that goes to others before this one gets any."""
        return sum(r.missing if r.order < request.order else r.missing == 1 for r in self.running)

    def _awaits_another(self, request: Request) -> bool:
        """True while a running sequence is about to compute what this one would share."""
        first = request.first
        if first is not None and first in self.running and first.missing > 1:
            return True
        digests = self._digests(request)
        known = len(self._pages.find(digests))
        return known < len(digests) and any(
            self._will_publish(other, digests[known], known) for other in self.running
        )

    def _will_publish(self, other: Request, digest: bytes, place: int) -> bool:
        end = (place + 1) * self._pages.page_size
        return (
            other.cached < end <= len(other.tokens)
            and other.chain.digests(other.tokens, self._pages.page_size, place + 1)[place] == digest
        )

    def _digests(self, request: Request) -> list[bytes]:
        """Of the pages that it may share: the last token always passes through the model, for its logits."""
        if request.reads_prompt:
            return []  # it needs the logits of tokens that would be shared
        size = self._pages.page_size
        return request.chain.digests(request.tokens, size, (len(request.tokens) - 1) // size)

    def _enter(self, request: Request) -> bool:
        """Moves a waiting sequence to `running`, at the cost of later ones where it must be; False if it cannot."""
        while (shared := self._claim(request)) is None:
            if not self.running or _order(self.running[-1]) < _order(request):
                return False
            self._preempt()
        found = self._copy_last_page(request, shared * self._pages.page_size)
        if request.num_cached is None:
            self.prompt_tokens += request.prompt_count
            self.cached_tokens += found
        request.found(found, self._take_over(request, found))
        self.waiting.remove(request)
        insort(self.running, request, key=_order)
        return True

    def _claim(self, request: Request) -> int | None:
        if len(self.running) == self._max_running:
            return None
        return self._pages.claim(request.pages, len(request.tokens), self._digests(request))

    def _copy_last_page(self, request: Request, shared: int) -> int:
        """Tokens of `request` that need no computing, `shared` of them in pages of others.

        Where the page with the last token is known too, it is copied, so that only that token passes through the
        model, for its logits.
        """
        last = len(request.tokens) - 1
        place = last // self._pages.page_size
        if request.reads_prompt or shared != place * self._pages.page_size:
            return shared
        source = self._page_of_first(request, place)
        source = self._full_page(request, place) if source is None else source
        if source is None:
            return shared
        self._copy_page(source, request.pages[place])
        return last

    def _page_of_first(self, request: Request, place: int) -> int | None:
        """Of n answers to a prompt, those after the first look at the prompt's last, partly filled page."""
        first = request.first
        if first is None or first not in self.running or request.answer_count or first.shifted is not None:
            return None
        return first.pages[place] if first.cached >= request.prompt_count else None

    def _full_page(self, request: Request, place: int) -> int | None:
        size = self._pages.page_size
        if len(request.tokens) % size:
            return None
        return self._pages.known(request.chain.digests(request.tokens, size, place + 1)[place])

    def _share_budget(self) -> list[Chunk]:
        budget = self._max_batch_tokens - sum(request.missing == 1 for request in self.running)
        chunks: list[Chunk] = []
        for request in self.running:
            count = 1 if request.missing == 1 else min(request.missing, request.most_at_once, budget)
            if count:
                token_ids = request.tokens[request.cached : request.cached + count]
                chunks.append(Chunk(request, request.cached, token_ids))
            if request.missing > 1:
                budget -= count
        return chunks
