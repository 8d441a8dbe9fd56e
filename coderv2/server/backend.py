"""What answers: an engine with its tokenizer. Ours, another server's, or a test's with scripted replies."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from coderv2.engine.request import Delta, SamplingParams
from coderv2.engine.stats import EngineStats
from coderv2.errors import Unsupported
from coderv2.model.config import ModelConfig
from coderv2.server.defaults import SamplingDefaults
from coderv2.text.tokenizer import Tokenizer


class Engine(Protocol):
    """What the server needs of `engine.worker.Worker`."""

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and answer together."""

    def stream(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        tenant: str = "",
        priority: int = 0,
        deadline: float | None = None,
    ) -> AsyncGenerator[Delta, None]:
        """Checks at the call, starts with the first `anext`, aborts when closed."""

    def healthy(self) -> bool:
        """True while requests can be served."""

    def stats(self) -> EngineStats:
        """The engine's counts of this moment."""


@dataclass(frozen=True)
class CountedDelta(Delta):
    """A delta of an engine that tells how many tokens it made, but not always which."""

    completion_tokens: int = 0


def tokens_of(delta: Delta) -> int:
    """How many tokens it brought."""
    return delta.completion_tokens if isinstance(delta, CountedDelta) else len(delta.token_ids)


_COUNTED = 4
"""Contexts that a text may fill of which only the tokens are asked for."""


@dataclass(frozen=True)
class Backend:
    """One checkpoint that is being served."""

    engine: Engine
    tokenizer: Tokenizer
    defaults: SamplingDefaults = field(default_factory=SamplingDefaults)
    no_infill: str | None = None
    """Why it cannot fill in a middle; None: it can."""

    @property
    def prompt_tokenizer(self) -> Tokenizer:
        """For prompts: it refuses what cannot fit the context before it has read all of it."""
        context = self.engine.max_model_len
        return self.tokenizer.at_most(context, f"This model's maximum context length is {context} tokens")

    @property
    def count_tokenizer(self) -> Tokenizer:
        """For texts that are only counted: they may be longer, so that a client learns by how much."""
        most = _COUNTED * self.engine.max_model_len
        return self.tokenizer.at_most(
            most, f"At most {most} tokens are counted, {_COUNTED} times the context"
        )

    def check_infill(self) -> None:
        """Raises Unsupported, with the reason, for a model that was not taught to."""
        if self.no_infill is not None:
            raise Unsupported(self.no_infill, param="suffix")


def why_no_infill(tokenizer: Tokenizer, config: ModelConfig | None = None) -> str | None:
    """The reason why a checkpoint cannot fill in a middle, if it cannot."""
    if tokenizer.fim is None:
        return "this model cannot infill: its tokenizer lacks the marks for it"
    if config is not None and (config.hidden_size, config.num_hidden_layers) == _SIZE_OF_236B:
        return (
            "this model cannot infill: DeepSeek-Coder-V2 of 236B parameters was trained without fill-in-the-middle "
            "(only the 16B was); serve a Lite-Base beside it with --fim-model"
        )
    return None


_SIZE_OF_236B = (5120, 60)
