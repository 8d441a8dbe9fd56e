"""Submit, step, abort, stats: many requests over one model, one forward pass at a time.

Not safe to share between threads (`worker` is for that), save for `validate`, `full` and `stats`, which only read.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import count
from operator import add

from torch import Tensor

from coderv2.engine import determinism, prefix
from coderv2.engine.admission import Admission
from coderv2.engine.choosing import Turn, take
from coderv2.engine.contest import Contest, through
from coderv2.engine.deadlines import Deadlines, check_deadline
from coderv2.engine.disk import DiskTier, fingerprint
from coderv2.engine.graphs import DecodeGraphs
from coderv2.engine.pages import Pages
from coderv2.engine.ranks import Ranks, Weights
from coderv2.engine.recording import Recorder, recorder_for
from coderv2.engine.request import Delta, Request, SamplingParams
from coderv2.engine.runner import Model, Runner
from coderv2.engine.sampler import Said
from coderv2.engine.scheduler import Chunk, Scheduler
from coderv2.engine.settings import EngineSettings, longest_context, page_count
from coderv2.engine.shifted import Suffixes
from coderv2.engine.speculation import Drafting
from coderv2.engine.steps import Steps
from coderv2.errors import BadCheckpoint, EngineStopped, InvalidValue, QueueFull, ServiceError, Unsupported
from coderv2.log import logger
from coderv2.model.cache import LatentCache
from coderv2.model.config import ModelConfig
from coderv2.model.transformer import Transformer
from coderv2.text.tokenizer import Tokenizer

__all__ = ["Engine", "EngineSettings", "EngineStats"]


_SCORING = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, prompt_logprobs=0)


@dataclass(frozen=True)
class EngineStats:
    """How busy an engine is."""

    running: int
    waiting: int
    pages_used: int
    """Held by a running sequence."""
    pages_total: int
    pages_idle: int
    """Not held, but kept for prompts that start the same."""
    prompt_tokens: int
    """Of all requests that have started."""
    cached_tokens: int
    """Those of them that were found in the cache."""
    draft_tokens: int
    """Guessed tokens that were checked."""
    accepted_tokens: int
    """Those of them that were right."""
    gave_up: int = 0
    """Requests that waited too long in the queue."""

    def __add__(self, other: "EngineStats") -> "EngineStats":
        """Of two engines."""
        return EngineStats(*map(add, astuple(self), astuple(other)))


class Engine:
    """Runs many requests over one model. What a request's tokens are does not depend on its neighbours' seeds."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        settings: EngineSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        ranks: Ranks | None = None,
        recorder: Recorder | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        """Takes the cache's memory. Raises InvalidValue when the wanted context does not fit it.

        `clock` gives seconds, for deadlines and for the order of arrival; `ranks` hold the rest of a model of which
        `model` is the first's part; `recorder` records decode steps, by default where the device can;
        `between` is called after every pass.
        """
        self.settings = settings = settings or EngineSettings()
        self.ranks = ranks
        self.tokenizer = tokenizer
        self.config = config = model.config
        _check_vocabularies(tokenizer, config)
        if ranks is not None:
            check_ranks(settings)
        if settings.deterministic:
            determinism.prove(model)
        dtype = settings.cache_dtype or model.cache_dtype
        pages = page_count(config, settings, dtype, model.device)
        self.max_model_len = longest_context(config, settings, pages * settings.page_size)
        if recorder is None:
            recorder = recorder_for(model.device) if ranks is None else ranks.recorder()
        recorder = recorder if settings.graphs else None
        if recorder is not None and (reason := _unrecordable(model, settings)):
            logger.info("decode steps are not recorded as graphs: %s", reason)
            recorder = None
        make_cache = LatentCache if ranks is None else ranks.cache
        # One page more, for the rows that fill up a recorded step.
        spare = recorder is not None
        cache = make_cache(config, pages + spare, settings.page_size, dtype, model.device)
        graphs = None
        if recorder is not None:
            longest = min(-(-self.max_model_len // settings.page_size), pages)
            most = settings.max_running
            make_steps = Steps if ranks is None else ranks.steps
            graphs = DecodeGraphs(
                make_steps(model, cache, most=most, pages=longest, recorder=recorder),
                most=most,
                page_size=settings.page_size,
                nobody=pages,
                grow=lambda request, tokens: self._pages.grow(request.pages, tokens),
            )
        self._runner = Runner(model, cache, deterministic=settings.deterministic, ranks=ranks, graphs=graphs)
        self._model, self._cache = model, cache
        self._pages = Pages(pages, settings.page_size, self._tier())
        self._suffixes = Suffixes(cache, self._pages, tokenizer.fim, seam=settings.fim_seam)
        budget = settings.max_batch_tokens
        self._scheduler = Scheduler(
            self._pages,
            max_batch_tokens=budget,
            max_running=settings.max_running,
            copy_page=cache.copy_page,
            take_over=self._suffixes.take_over,
        )
        self._drafting = Drafting(
            config, self._pages, max_batch_tokens=budget, draft_tokens=settings.draft_tokens
        )
        self._admission = Admission(config, tokenizer, settings, self.max_model_len)
        self._clock, self._between = clock, between
        self._deadlines, self._patience = Deadlines(), Deadlines()
        self._gave_up = 0
        self._requests: dict[str, list[Request]] = {}
        self._contests: dict[str, Contest] = {}
        self._ended: list[Delta] = []
        self._names = count()

    def validate(self, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        """Raises InvalidValue or ContextTooLong for what this engine can never serve."""
        self._admission.check(prompt_ids, params)

    def full(self, answers: int = 1) -> bool:
        """True when the queue has no room for so many more sequences."""
        return len(self._scheduler.waiting) + answers > self.settings.max_waiting

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        request_id: str | None = None,
        tenant: str = "",
        priority: int = 0,
        deadline: float | None = None,
        patience: float | None = None,
    ) -> str:
        """Queues a prompt and returns the id that its deltas carry.

        Cached prompts are shared among requests of the same `tenant` only. A lower `priority` is served first, each
        level worth `scheduler.PATIENCE` seconds of waiting. After `deadline` seconds what is there is the answer, with
        the finish_reason "length". What has not begun after `patience` seconds ends with the finish_reason "queue".
        Raises InvalidValue, ContextTooLong or QueueFull; nothing is queued then.
        """
        self.validate(prompt_ids, params)
        return self._queue(prompt_ids, params, request_id, tenant, priority, deadline, patience)

    def _queue(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        request_id: str | None = None,
        tenant: str = "",
        priority: int = 0,
        deadline: float | None = None,
        patience: float | None = None,
    ) -> str:
        arrival = self._clock()
        ends, gives_up = check_deadline(arrival, deadline), check_deadline(arrival, patience)
        if self.full(params.answers):
            raise QueueFull(f"{len(self._scheduler.waiting)} requests are waiting already; try again soon")
        request_id = request_id or f"request-{next(self._names)}"
        if request_id in self._requests:
            raise InvalidValue(f"request_id {request_id!r} is in use", param="request_id")
        owner = (tenant,) if self.settings.prefix_caching else (tenant, str(next(self._names)))
        requests = self._admission.requests(request_id, prompt_ids, params, prefix.salt("exact", *owner))
        for request in requests:
            self._drafting.equip(request)
        if params.answers > params.n:
            self._contests[request_id] = Contest(params)
        self._requests[request_id] = requests
        self._scheduler.add(requests, arrival=arrival, priority=priority)
        self._deadlines.add(requests, ends)
        self._patience.add(requests[:1], gives_up)  # its other answers never begin before the first
        return request_id

    def abort(self, request_id: str) -> None:
        """Ends a request's open answers: their pages are free on return, the next step brings their last deltas.

        An id that is unknown, or whose answers have all ended, changes nothing.
        """
        for request in tuple(self._requests.get(request_id, ())):
            self._ended.append(request.abort())
            self._retire(request)

    def step(self) -> list[Delta]:
        """One forward pass, and what it added to each answer; [] when there is nothing to do.

        Whatever the model raises ends the requests of that pass with an error delta, and logits that are not finite
        end theirs; the engine goes on with the others.
        """
        self._expire(self._clock())
        deltas, self._ended = self._ended, []
        chunks = self._drafting.extend(self._scheduler.plan())
        return through(self._contests, deltas + self._advance(chunks))

    def _expire(self, now: float) -> None:
        for request in self._deadlines.passed(now):
            self._ended.append(request.expire())
            self._retire(request)
        for first in self._patience.passed(now):
            if first.num_cached is not None:
                continue
            self._gave_up += 1
            for request in tuple(self._requests[first.id]):
                self._ended.append(
                    request.give_up("the server is busy: the request waited too long; try again soon")
                )
                self._retire(request)

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """The log-probability of each sequence's tokens but the first, given those before.

        All in this one call; open requests go on beside, and what they bring comes with the next step. Raises
        InvalidValue or ContextTooLong, and ServiceError when the model fails.
        """
        for ids in sequences:
            self._admission.check_scored(ids)
        scores: list[list[float]] = [[] for _ in sequences]
        places: dict[str, int] = {}
        others: list[Delta] = []
        try:
            for place, delta in self._scored(sequences, places, others):
                scores[place] = _scores(delta)
        finally:
            for request_id in places:
                self.abort(request_id)
            self._ended = others + [delta for delta in self._ended if delta.request_id not in places]
        return scores

    def _scored(
        self, sequences: Sequence[Sequence[int]], places: dict[str, int], others: list[Delta]
    ) -> Iterator[tuple[int, Delta]]:
        """Place and delta of each sequence when done; `places` holds those under way, `others` what is not theirs."""
        ahead = deque(enumerate(sequences))
        while ahead or places:
            while ahead and not self.full():
                place, ids = ahead.popleft()
                places[self._queue(ids, _SCORING)] = place
            deltas = self.step()
            others += (delta for delta in deltas if delta.request_id not in places)
            for delta in deltas:
                if delta.request_id in places:
                    yield places.pop(delta.request_id), delta

    def update_weights(self, source: Weights) -> None:
        """Between two steps: new values for the model's weights, in place.

        `source` is a checkpoint's folder, or some or all tensors by their published names. What was cached is
        forgotten; open requests go on under the new weights, their tokens so far computed anew. Raises BadCheckpoint,
        and nothing has changed then.
        """
        self._runner.update(source)
        self.renew()

    def renew(self) -> None:
        """Forgets what was computed under other weights."""
        self._scheduler.preempt_all()
        self._pages.forget()
        self._pages.tier = self._tier()

    def save_page(self) -> bool:
        """Writes one page of the cache to `cache_dir`, for moments without work; False when all are there."""
        return self._pages.save()

    def has_work(self) -> bool:
        """True while `step` would return something or bring a request further."""
        return bool(self._requests or self._ended)

    def stats(self) -> EngineStats:
        """Counts of this moment."""
        return EngineStats(
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            pages_used=self._pages.used,
            pages_total=self._pages.count,
            pages_idle=self._pages.idle,
            prompt_tokens=self._scheduler.prompt_tokens,
            cached_tokens=self._scheduler.cached_tokens,
            draft_tokens=self._drafting.drafted,
            accepted_tokens=self._drafting.accepted,
            gave_up=self._gave_up,
        )

    def check(self) -> None:
        """Raises AssertionError unless the books on every page agree with what the open requests hold."""
        self._pages.check(request.pages for group in self._requests.values() for request in group)

    def _tier(self) -> DiskTier | None:
        if self.settings.cache_dir is None:
            return None
        name = fingerprint(self._model, self._cache, deterministic=self.settings.deterministic)
        return DiskTier(self.settings.cache_dir, name, self._cache, self.settings.cache_dir_bytes)

    def _advance(self, chunks: Sequence[Chunk]) -> list[Delta]:
        if not chunks:
            return []
        try:
            logits_RW, said = self._forward(chunks)
            turns = take(logits_RW, chunks, said)
        except EngineStopped:
            raise
        except Exception as error:  # whatever a model may raise, out of memory included
            logger.exception("a forward pass of %d sequences failed", len(chunks))
            return [self._fail(chunk.request, f"the forward pass failed: {error!r}") for chunk in chunks]
        self._between()
        for turn in turns:
            self._settle(turn)
        return [turn.delta for turn in turns if turn.delta is not None]

    def _forward(self, chunks: Sequence[Chunk]) -> tuple[Tensor, Said | None]:
        return self._runner.step(chunks)

    def _settle(self, turn: Turn) -> None:
        if not turn.failed:
            self._scheduler.settle(turn.chunk, turn.taken)
        if turn.chunk.request.finish_reason:
            self._retire(turn.chunk.request)
        self._drafting.count(turn)

    def _fail(self, request: Request, message: str) -> Delta:
        delta = request.fail(message)
        self._retire(request)
        return delta

    def _retire(self, request: Request) -> None:
        if request.finish_reason == "error":
            # NaN must not stay where another's attention may read beyond its own tokens.
            self._cache.clear(request.pages[request.cached // self.settings.page_size :])
        self._scheduler.remove(request)
        group = self._requests[request.id]
        group.remove(request)
        if not group:
            del self._requests[request.id]


def _check_vocabularies(tokenizer: Tokenizer, config: ModelConfig) -> None:
    if tokenizer.vocab_size > config.vocab_size:
        raise BadCheckpoint(
            f"the tokenizer has {tokenizer.vocab_size} tokens, but the model only {config.vocab_size}: "
            "they do not belong together"
        )


def check_ranks(settings: EngineSettings) -> None:
    """Unsupported for what one of several ranks cannot do."""
    if settings.deterministic:
        raise Unsupported(
            "deterministic: the order in which ranks add up depends on the company; use one rank",
            param="deterministic",
        )
    if settings.cache_dir is not None:
        raise Unsupported(
            "cache_dir is filled by one rank only; leave it out with several", param="cache_dir"
        )


def _unrecordable(model: Model, settings: EngineSettings) -> str | None:
    if settings.deterministic:
        return "deterministic"
    if isinstance(model, Transformer) and model.team.split.attention == "tokens":
        return "every pass asks how many tokens each rank has"
    return "experts in RAM" if isinstance(model, Transformer) and not model.recordable else None


def _scores(delta: Delta) -> list[float]:
    if delta.error is not None:
        raise ServiceError(delta.error)
    return [place.logprob for place in delta.prompt_logprobs or ()]
