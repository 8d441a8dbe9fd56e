"""What `coderv2 serve` puts behind the door: engines of ours, or other servers; started and stopped together."""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coderv2.cli import loading
from coderv2.errors import EngineStopped
from coderv2.server.upstream import BEGIN_SECONDS

if TYPE_CHECKING:
    from coderv2.engine.ranks import Ranks
    from coderv2.server.backend import Backend
    from coderv2.server.models import Models
    from coderv2.server.upstream.launch import Launch, Running

STARTING_SECONDS = 1800.0
"""What an engine that we start may take to load a model."""


@dataclass
class Engines:
    """Loads one checkpoint, or one for conversations and one for text and holes."""

    model: str | None
    fim_model: str | None
    name: str | None
    settings: dict[str, Any]
    patience: float | None = None
    """Seconds that a request may wait in a queue."""
    _stops: list[Callable[[], None]] = field(default_factory=list)
    _ranks: "Ranks | None" = None

    def load(self) -> "Models":
        """Starts them. Raises what a checkpoint does not allow."""
        from coderv2.server.models import Models

        chat, name = self._start(self.model)
        text = None if self.fim_model is None else self._start(self.fim_model)[0]
        return Models.of(self.name or name, chat, text)

    def stop(self) -> None:
        """Ends every stream."""
        for stop in self._stops:
            stop()

    def check(self) -> None:
        """EngineStopped with the reason when another rank died."""
        if self._ranks is not None and self._ranks.failure is not None:
            raise EngineStopped(self._ranks.failure)

    def _start(self, model: str | None) -> "tuple[Backend, str]":
        from coderv2.engine.worker import Worker
        from coderv2.server.backend import Backend, why_no_infill
        from coderv2.server.defaults import SamplingDefaults

        loaded = loading.load(model, **self.settings)
        worker = Worker(loaded.engine, patience=self.patience)
        worker.start()
        self._stops.append(worker.stop)
        self._stops.append(loaded.save_usage)
        if (ranks := loaded.engine.ranks) is not None:
            self._follow(ranks)
        tokenizer, defaults = loaded.engine.tokenizer, SamplingDefaults.from_folder(loaded.folder)
        return Backend(
            worker, tokenizer, defaults, why_no_infill(tokenizer, loaded.engine.config)
        ), loaded.name

    def _follow(self, ranks: "Ranks") -> None:
        """A rank that dies ends the server; the server's end is theirs."""
        ranks.on_failure = lambda: os.kill(os.getpid(), signal.SIGTERM)
        self._ranks = ranks
        self._stops.append(ranks.stop)


@dataclass
class Others:
    """Other servers; of the model only tokenizer and config are read here."""

    model: str | None
    name: str | None
    urls: Sequence[str]
    key: str | None = None
    launch: "Launch | None" = None
    max_model_len: int | None = None
    begin_seconds: float = BEGIN_SECONDS
    """What they may take to begin an answer."""
    _stops: list[Callable[[], None]] = field(default_factory=list)

    def load(self) -> "Models":
        """Waits until one of them answers. Raises InvalidValue when none does, or what was started here ended."""
        from coderv2.model import hub
        from coderv2.model.loading import open_config, open_tokenizer
        from coderv2.server.backend import Backend, why_no_infill
        from coderv2.server.defaults import SamplingDefaults
        from coderv2.server.models import Models
        from coderv2.server.upstream.engine import Upstreams, wait_for_one

        folder = hub.resolve(self.model, wanted=("*.json",))
        tokenizer, config = open_tokenizer(folder), open_config(folder)
        started = self._started()
        urls, seconds = [*self.urls, *(one.url for one in started)], STARTING_SECONDS if started else 10.0
        context = config.max_position_embeddings
        longest = min(context, self.max_model_len or context)
        engine = Upstreams(urls, tokenizer, longest, self.key, begin_seconds=self.begin_seconds)
        asyncio.run(wait_for_one(engine, seconds, started))
        backend = Backend(
            engine, tokenizer, SamplingDefaults.from_folder(folder), why_no_infill(tokenizer, config)
        )
        return Models.of(self.name or loading.name_of(self.model, folder), backend)

    def stop(self) -> None:
        """Ends what was started here."""
        for stop in self._stops:
            stop()

    def check(self) -> None:
        """Nothing: an upstream that is gone is told to each request."""

    def _started(self) -> "list[Running]":
        from coderv2.server.upstream.launch import Running

        if self.launch is None:
            return []
        running = Running(self.launch)
        self._stops.append(running.stop)
        return [running]
