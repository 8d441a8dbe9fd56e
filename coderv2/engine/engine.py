"""Submit, step, abort, stats: many requests over one model, one forward pass at a time.

What a submission is, until it has ended, stands in `open_requests`; here is the step.

Not safe to share between threads (`worker` is for that), save for `validate`, `ready`, `full` and `stats`, which only
read.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from coderv2.engine import determinism, scoring
from coderv2.engine.admission import Admission
from coderv2.engine.choosing import Turn, take
from coderv2.engine.disk import DiskTier, fingerprint
from coderv2.engine.open_requests import OpenRequests, Terms
from coderv2.engine.pages import Pages
from coderv2.engine.rank_processes import uninterrupted
from coderv2.engine.ranks import Ranks, Weights
from coderv2.engine.recording import Recorder
from coderv2.engine.request import Delta, Request, SamplingParams
from coderv2.engine.runner import Model, make_runner
from coderv2.engine.sampler import Said
from coderv2.engine.scheduler import Chunk, Scheduler
from coderv2.engine.settings import EngineSettings, check_ranks, longest_context, page_count
from coderv2.engine.shifted import Suffixes
from coderv2.engine.speculation import Drafting
from coderv2.engine.stats import EngineStats
from coderv2.errors import BadCheckpoint, EngineStopped
from coderv2.log import logger
from coderv2.model.config import ModelConfig
from coderv2.text.tokenizer import Tokenizer

__all__ = ["Engine", "EngineSettings"]


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
        self.ranks, self.tokenizer = ranks, tokenizer
        self.config = config = model.config
        _check_vocabularies(tokenizer, config)
        if ranks is not None:
            check_ranks(settings)
        if settings.deterministic:
            determinism.prove(model)
        self._pages = pages = Pages(
            page_count(config, settings, settings.cache_dtype or model.cache_dtype, model.device),
            settings.page_size,
        )
        self.max_model_len = longest_context(config, settings, pages.count * pages.page_size)
        self._runner = make_runner(model, settings, pages, self.max_model_len, ranks=ranks, recorder=recorder)
        self._model, self._cache = model, self._runner.cache
        pages.tier = self._tier()
        self._suffixes = Suffixes(self._cache, pages, tokenizer.fim, seam=settings.fim_seam)
        budget = settings.max_batch_tokens
        self._scheduler = Scheduler(
            pages,
            max_batch_tokens=budget,
            max_running=settings.max_running,
            copy_page=self._cache.copy_page,
            take_over=self._suffixes.take_over,
        )
        self._drafting = Drafting(config, pages, max_batch_tokens=budget, draft_tokens=settings.draft_tokens)
        self._admission = Admission(config, tokenizer, settings, self.max_model_len)
        self._open = OpenRequests(self._admission, self._scheduler, self._drafting, settings, clock)
        self._between = between

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._model.device

    def validate(self, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        """Raises InvalidValue or ContextTooLong for what this engine can never serve."""
        self._admission.check(prompt_ids, params)

    def ready(self, params: SamplingParams) -> SamplingParams:
        """The same with a `prediction` encoded, which `submit` does otherwise and which may take seconds."""
        return self._admission.ready(params)

    def full(self, answers: int = 1) -> bool:
        """True when the queue has no room for so many more sequences."""
        return self._open.full(answers)

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
        terms = Terms(tenant, priority, deadline, patience)
        return self._open.add(prompt_ids, self.ready(params), request_id, terms)

    def abort(self, request_id: str) -> None:
        """Ends a request's open answers: their pages are free on return, the next step brings their last deltas.

        An id that is unknown, or whose answers have all ended, changes nothing.
        """
        self._open.abort(request_id)

    def step(self) -> list[Delta]:
        """One forward pass, and what it added to each answer; [] when there is nothing to do.

        Whatever the model raises ends the requests of that pass with an error delta, and logits that are not finite
        end theirs; the engine goes on with the others.
        """
        with self._whole():
            self._open.expire()
            deltas = self._open.take_ended()
            chunks = self._drafting.extend(self._scheduler.plan())
            return self._open.told(deltas + self._advance(chunks))

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """The log-probability of each sequence's tokens but the first, given those before.

        All in this one call; open requests go on beside, and what they bring comes with the next step. Raises
        InvalidValue or ContextTooLong, and ServiceError when the model fails.
        """
        for ids in sequences:
            self._admission.check_scored(ids)
        return scoring.score(self._open, self.step, sequences)

    def update_weights(self, source: Weights) -> None:
        """Between two steps: new values for the model's weights, in place.

        `source` is a checkpoint's folder, or some or all tensors by their published names. What was cached is
        forgotten; open requests go on under the new weights, their tokens so far computed anew. Raises BadCheckpoint,
        and nothing has changed then.
        """
        with self._whole():
            self._runner.update(source)
            self.renew()

    def renew(self) -> None:
        """Forgets what was computed under other weights."""
        self._runner.drop()
        self._scheduler.preempt_all()
        self._pages.forget()
        self._pages.tier = self._tier()

    def save_page(self) -> bool:
        """Writes one page of the cache to `cache_dir`, for moments without work; False when all are there."""
        return self._pages.save()

    def has_work(self) -> bool:
        """True while `step` would return something or bring a request further."""
        return bool(self._open)

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
            gave_up=self._open.gave_up,
        )

    def check(self) -> None:
        """Raises AssertionError unless the books on every page agree with what the open requests hold."""
        self._pages.check(request.pages for request in self._open)

    def _whole(self) -> AbstractContextManager[None]:
        """Around what all ranks do together."""
        return nullcontext() if self.ranks is None else uninterrupted()

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
        request = turn.chunk.request
        if turn.failed:
            self._clear(request)
        else:
            self._scheduler.settle(turn.chunk, turn.taken)
        if request.finish_reason:
            self._open.retire(request)
        self._drafting.count(turn)

    def _fail(self, request: Request, message: str) -> Delta:
        self._clear(request)
        delta = request.fail(message)
        self._open.retire(request)
        return delta

    def _clear(self, request: Request) -> None:
        """NaN must not stay where another's attention may read beyond its own tokens."""
        self._cache.clear(request.pages[request.cached // self.settings.page_size :])


def _check_vocabularies(tokenizer: Tokenizer, config: ModelConfig) -> None:
    if tokenizer.vocab_size > config.vocab_size:
        raise BadCheckpoint(
            f"the tokenizer has {tokenizer.vocab_size} tokens, but the model only {config.vocab_size}: "
            "they do not belong together"
        )
