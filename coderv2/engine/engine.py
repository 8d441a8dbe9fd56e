"""Submit, step, abort, stats: many requests over one model, one forward pass at a time.

Not safe to share between threads (`worker` is for that), save for `validate`, `full` and `stats`, which only read.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from random import Random

import torch

from coderv2.engine.pages import Pages
from coderv2.engine.request import Choice, Delta, Request, SamplingParams
from coderv2.engine.runner import Model, Runner, affordable_tokens
from coderv2.engine.sampler import sample
from coderv2.engine.scheduler import Chunk, Scheduler
from coderv2.errors import BadCheckpoint, ContextTooLong, InvalidValue, QueueFull
from coderv2.log import logger
from coderv2.model.cache import LatentCache
from coderv2.model.config import ModelConfig
from coderv2.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class EngineSettings:
    """Limits of one engine. InvalidValue names the field that makes no sense."""

    max_model_len: int | None = None
    """Tokens of prompt and answer together; None: the model's own limit, or what the cache holds if that is less."""
    max_batch_tokens: int = 2048
    """Tokens in one forward pass."""
    max_running: int = 64
    """Sequences that advance together."""
    max_waiting: int = 1024
    """Sequences in the queue; one more is QueueFull."""
    cache_tokens: int | None = None
    """None: max_running full contexts, or what fits a quarter of the free memory if that is less."""
    page_size: int = 16
    """Tokens in a page of the cache."""
    cache_dtype: torch.dtype | None = None
    """None: the model's."""
    seed: int | None = None
    """Fixes the seeds of requests that bring none; None: they differ from run to run."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidValue(f"{name} must be at least 1, not {value}", param=name)
        if self.max_batch_tokens < self.max_running:
            raise InvalidValue(
                f"max_batch_tokens ({self.max_batch_tokens}) must be at least max_running ({self.max_running}), "
                "so that every answer gets one token per step",
                param="max_batch_tokens",
            )


_COUNTS = ("max_model_len", "max_batch_tokens", "max_running", "max_waiting", "cache_tokens", "page_size")


@dataclass(frozen=True)
class EngineStats:
    """How busy an engine is."""

    running: int
    waiting: int
    pages_used: int
    pages_total: int


class Engine:
    """Runs many requests over one model. What a request's tokens are does not depend on its neighbours' seeds."""

    def __init__(self, model: Model, tokenizer: Tokenizer, settings: EngineSettings | None = None) -> None:
        """Takes the cache's memory. Raises InvalidValue when the wanted context does not fit it."""
        self.settings = settings = settings or EngineSettings()
        self.tokenizer = tokenizer
        self.config = config = model.config
        if tokenizer.vocab_size > config.vocab_size:
            raise BadCheckpoint(
                f"the tokenizer has {tokenizer.vocab_size} tokens, but the model only {config.vocab_size}: "
                "they do not belong together"
            )
        dtype = settings.cache_dtype or model.dtype
        pages = page_count(config, settings, dtype, model.device)
        self.max_model_len = _max_model_len(config, settings, pages * settings.page_size)
        self._runner = Runner(model, LatentCache(config, pages, settings.page_size, dtype, model.device))
        self._pages = Pages(pages, settings.page_size)
        self._scheduler = Scheduler(
            self._pages, max_batch_tokens=settings.max_batch_tokens, max_running=settings.max_running
        )
        self._requests: dict[str, list[Request]] = {}
        self._ended: list[Delta] = []
        self._seeds = Random(settings.seed)
        self._names = count()

    def validate(self, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        """Raises InvalidValue or ContextTooLong for what this engine can never serve."""
        self._check_ids("prompt", prompt_ids)
        self._check_ids("stop_token_ids", params.stop_token_ids or ())
        self._check_ids("logit_bias", tuple(params.logit_bias or ()))
        if not prompt_ids:
            raise InvalidValue("the prompt is empty: it needs at least one token", param="prompt")
        if params.n > self.settings.max_waiting:
            raise InvalidValue(f"n must be at most {self.settings.max_waiting}, not {params.n}", param="n")
        self._check_length(len(prompt_ids), params.max_tokens)

    def full(self, answers: int = 1) -> bool:
        """True when the queue has no room for so many more sequences."""
        return len(self._scheduler.waiting) + answers > self.settings.max_waiting

    def submit(
        self, prompt_ids: Sequence[int], params: SamplingParams, *, request_id: str | None = None
    ) -> str:
        """Queues a prompt and returns the id that its deltas carry.

        Raises InvalidValue, ContextTooLong or QueueFull; nothing is queued then.
        """
        self.validate(prompt_ids, params)
        if self.full(params.n):
            raise QueueFull(f"{len(self._scheduler.waiting)} requests are waiting already; try again soon")
        request_id = request_id or f"request-{next(self._names)}"
        if request_id in self._requests:
            raise InvalidValue(f"request_id {request_id!r} is in use", param="request_id")
        self._requests[request_id] = self._make_requests(request_id, prompt_ids, params)
        self._scheduler.add(self._requests[request_id])
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
        deltas, self._ended = self._ended, []
        chunks = self._scheduler.plan()
        return deltas + self._advance(chunks) if chunks else deltas

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
        )

    def check(self) -> None:
        """Raises AssertionError unless every page is free or held by exactly one open request."""
        self._pages.check(request.pages for group in self._requests.values() for request in group)

    def _check_ids(self, name: str, ids: Sequence[int]) -> None:
        if not ids or (min(ids) >= 0 and max(ids) < self.config.vocab_size):
            return
        wrong = next(i for i in ids if not 0 <= i < self.config.vocab_size)
        raise InvalidValue(f"{name}: token {wrong} is not from 0 to {self.config.vocab_size - 1}", param=name)

    def _check_length(self, prompt_count: int, max_tokens: int | None) -> None:
        wanted = prompt_count + (max_tokens or 1)
        if wanted <= self.max_model_len:
            return
        limit = f"This model's maximum context length is {self.max_model_len} tokens"
        if self.max_model_len < self.config.max_position_embeddings:
            limit += f" as it is run here (its own is {self.config.max_position_embeddings})"
        raise ContextTooLong(
            f"{limit}. However, you requested {wanted} tokens ({prompt_count} in the prompt, {wanted - prompt_count} "
            "for the answer). Shorten the prompt or ask for fewer tokens."
        )

    def _make_requests(
        self, request_id: str, prompt_ids: Sequence[int], params: SamplingParams
    ) -> list[Request]:
        seed = self._seeds.getrandbits(63) if params.seed is None else params.seed
        tokens = [operator.index(token_id) for token_id in prompt_ids]
        return [
            Request(
                id=request_id,
                index=index,
                params=params,
                tokens=list(tokens),
                limit=params.max_tokens or self.max_model_len - len(tokens),
                tokenizer=self.tokenizer,
                # Python's generator seeds -1 and 1 alike, so negative seeds go where no positive one is.
                random=Random((seed + index) % 2**128),
            )
            for index in range(params.n)
        ]

    def _advance(self, chunks: Sequence[Chunk]) -> list[Delta]:
        try:
            sound, choices = self._forward(chunks)
        except Exception as error:  # whatever a model may raise, out of memory included
            logger.exception("a forward pass of %d sequences failed", len(chunks))
            return [self._fail(chunk.request, f"the forward pass failed: {error!r}") for chunk in chunks]
        return [
            delta for b, chunk in enumerate(chunks) for delta in self._settle(chunk, sound[b], choices.get(b))
        ]

    def _forward(self, chunks: Sequence[Chunk]) -> tuple[list[bool], dict[int, Choice]]:
        """Which chunks' logits are finite, and the chosen tokens of those that complete, by row."""
        logits_BW = self._runner.run(chunks)
        sound: list[bool] = logits_BW.sum(-1).isfinite().tolist()
        rows = [b for b, chunk in enumerate(chunks) if chunk.completes and sound[b]]
        choices = sample(logits_BW[rows], [chunks[b].request for b in rows])
        return sound, dict(zip(rows, choices, strict=True))

    def _settle(self, chunk: Chunk, sound: bool, choice: Choice | None) -> list[Delta]:
        request = chunk.request
        if not sound:
            return [self._fail(request, "the model's logits are not finite: damaged weights, or an overflow")]
        request.cached = chunk.end
        if choice is None:
            return []
        delta = request.accept(choice)
        if delta.finish_reason:
            self._retire(request)
        return [delta]

    def _fail(self, request: Request, message: str) -> Delta:
        self._retire(request)
        return request.fail(message)

    def _retire(self, request: Request) -> None:
        self._scheduler.remove(request)
        group = self._requests[request.id]
        group.remove(request)
        if not group:
            del self._requests[request.id]


def page_count(
    config: ModelConfig, settings: EngineSettings, dtype: torch.dtype, device: torch.device
) -> int:
    """Pages of a new engine's cache."""
    if settings.cache_tokens is not None:
        return settings.cache_tokens // settings.page_size
    context = settings.max_model_len or config.max_position_embeddings
    wanted = -(-context // settings.page_size) * settings.max_running
    return min(wanted, affordable_tokens(config, dtype, device) // settings.page_size)


def _max_model_len(config: ModelConfig, settings: EngineSettings, cache_tokens: int) -> int:
    own, wanted = config.max_position_embeddings, settings.max_model_len
    if wanted is not None and wanted > own:
        raise InvalidValue(
            f"max_model_len is {wanted}, but the model's context is {own}", param="max_model_len"
        )
    if cache_tokens < (wanted or 2):
        raise InvalidValue(
            f"the cache holds {cache_tokens} tokens, too few for max_model_len {wanted or 2}: lower max_model_len "
            "or raise cache_tokens (by default the cache takes a quarter of the free memory)",
            param="max_model_len",
        )
    return min(wanted or own, cache_tokens)
