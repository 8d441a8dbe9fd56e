"""Chunks of sequences to one `Batch` to logits, or to a recorded step."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from coderv2.engine.even import EvenGraphs
from coderv2.engine.graphs import DecodeGraphs
from coderv2.engine.pages import Pages
from coderv2.engine.ranks import Ranks, Weights
from coderv2.engine.recording import Recorder, recorder_for
from coderv2.engine.sampler import Said
from coderv2.engine.scheduler import Chunk
from coderv2.engine.settings import EngineSettings
from coderv2.engine.steps import Steps
from coderv2.log import logger
from coderv2.model import usage
from coderv2.model.batch import Batch
from coderv2.model.cache import LatentCache
from coderv2.model.parallel import Team
from coderv2.model.published import Named
from coderv2.model.transformer import Transformer
from coderv2.model.weights import update


class Model(Named, Protocol):
    """What the engine needs of a `Transformer`; tests bring one that is faster."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations."""

    @property
    def cache_dtype(self) -> torch.dtype:
        """Of the cache by default."""

    @property
    def device(self) -> torch.device:
        """Where cache and logits lie."""

    def __call__(self, batch: Batch, /) -> Tensor:
        """Float32 logits of `batch.logits_rows`, [R, W]."""


class Runner:
    """Runs a model over its cache; the chunks bring the page tables."""

    def __init__(
        self,
        model: Model,
        cache: LatentCache,
        *,
        deterministic: bool = False,
        ranks: Ranks | None = None,
        graphs: DecodeGraphs | None = None,
    ) -> None:
        self._ranks, self._graphs = ranks, graphs
        self._model, self.cache = model, cache
        self._deterministic = deterministic

    def update(self, source: Weights) -> None:
        """New values for the model's weights; nothing has changed when it raises."""
        if self._ranks is not None:
            self._ranks.update(source)
            return
        update(self._model, source)

    @torch.inference_mode()
    def step(self, chunks: Sequence[Chunk]) -> tuple[Tensor, Said | None]:
        """Logits as `run` gives them, and with them the tokens where a recorded step has chosen them already."""
        if self._graphs is not None and self._graphs.takes(chunks):
            with self._lockstep():
                return self._graphs.run(chunks)
        self.drop()
        return self.run(chunks), None

    @torch.inference_mode()
    def assist(self, model: Transformer) -> None:
        """A pass beside ranks with sequences of their own, without any here; `model` is this rank's."""
        if self._graphs is not None and self._graphs.takes(()):
            self._graphs.run(())
        else:
            model.assist()

    def drop(self) -> None:
        """Forgets a step that was started ahead: the weights are no longer what they were."""
        if self._graphs is not None:
            self._graphs.drop()

    def forget(self) -> None:
        """Lets recorded steps go."""
        if self._graphs is not None:
            self._graphs.forget()

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk]) -> Tensor:
        """Logits after the last `rows` tokens of each chunk, [R, W]; the chunks' tokens are then in the cache."""
        step = (
            [[*chunk.token_ids, *chunk.draft] for chunk in chunks],
            [chunk.context for chunk in chunks],
            [list(chunk.request.pages) for chunk in chunks],
        )
        wanted = [chunk.rows for chunk in chunks]
        if self._ranks is not None:
            self._ranks.tell("step", *step, wanted)
        with self._lockstep():
            return self._model(
                Batch.cached(self.cache, *step, wanted=wanted, deterministic=self._deterministic)
            )

    def _lockstep(self) -> AbstractContextManager[None]:
        return nullcontext() if self._ranks is None else self._ranks.lockstep()


def make_runner(
    model: Model,
    settings: EngineSettings,
    pages: Pages,
    longest: int,
    *,
    ranks: Ranks | None = None,
    recorder: Recorder | None = None,
) -> Runner:
    """With a cache of so many pages, and recorded steps for sequences of up to `longest` tokens where that goes."""
    recorder = _recorder(model, settings, ranks, recorder)
    # One page more, for the rows that fill up a recorded step.
    spare = recorder is not None
    dtype = settings.cache_dtype or model.cache_dtype
    make_cache = LatentCache if ranks is None else ranks.cache
    cache = make_cache(model.config, pages.count + spare, pages.page_size, dtype, model.device)
    graphs = None if recorder is None else _graphs(model, cache, settings, pages, longest, ranks, recorder)
    return Runner(model, cache, deterministic=settings.deterministic, ranks=ranks, graphs=graphs)


def _graphs(
    model: Model,
    cache: LatentCache,
    settings: EngineSettings,
    pages: Pages,
    longest: int,
    ranks: Ranks | None,
    recorder: Recorder,
) -> DecodeGraphs:
    team = model.team if isinstance(model, Transformer) else Team()
    even = team.split.attention == "tokens"
    kind = partial(EvenGraphs, heard=team.heard) if even else DecodeGraphs
    make_steps = partial(Steps, ranks=team.split.size if even else 1) if ranks is None else ranks.steps
    most, used = settings.max_running, min(pages.needed(longest), pages.count)
    return kind(
        make_steps(model, cache, most=most, pages=used, recorder=recorder),
        most=most,
        page_size=pages.page_size,
        nobody=pages.count,
        grow=lambda request, tokens: pages.grow(request.pages, tokens),
    )


def _recorder(
    model: Model, settings: EngineSettings, ranks: Ranks | None, given: Recorder | None
) -> Recorder | None:
    """By default the device's; None, with the reason in the log, where steps cannot be recorded."""
    recorder = given
    if given is None:
        recorder = recorder_for(model.device) if ranks is None else ranks.recorder()
    if not settings.graphs or recorder is None:
        return None
    if reason := _unrecordable(model, settings):
        logger.info("decode steps are not recorded as graphs: %s", reason)
        return None
    return recorder


def _unrecordable(model: Model, settings: EngineSettings) -> str | None:
    if settings.deterministic:
        return "deterministic"
    if not isinstance(model, Transformer):
        return None
    if not model.recordable:
        return "experts in RAM"
    # Some rows of recorded steps belong to nobody, and some steps are dropped: what these choose is not to count.
    return "experts are counted" if usage.watched(model) else None
