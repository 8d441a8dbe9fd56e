"""The limits of one engine, and the sizes that follow from them and from the machine."""

from dataclasses import dataclass
from pathlib import Path

import torch

from coderv2.engine.machine import free_bytes
from coderv2.errors import InvalidValue, Unsupported
from coderv2.model.cache import bytes_per_token
from coderv2.model.config import ModelConfig


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
    prefix_caching: bool = True
    """Whether prompts share what is known of their start; the n answers to one prompt always do."""
    draft_tokens: int = 128
    """Guessed tokens of an answer that one step checks at most; 0: none. No answer depends on it."""
    cache_dir: Path | None = None
    """Where pages of the cache are kept for the next start; None: nowhere."""
    cache_dir_bytes: int = 4 << 30
    """What they may take there."""
    seed: int | None = None
    """Fixes the seeds of requests that bring none; None: they differ from run to run."""
    fim_seam: int = 64
    """Suffix tokens next to the hole that a request with fim_reuse="shifted" computes anew."""
    graphs: bool = True
    """On a GPU, decode steps are recorded and repeated as CUDA graphs. Answers are the same without; slower."""
    deterministic: bool = False
    """Tokens and log-probabilities are bitwise the same alone or in a crowd, on a cache hit or miss, for any chunk size
    and order of arrival; slower. A request without a seed gets one from its prompt and `seed`."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidValue(f"{name} must be at least 1, not {value}", param=name)
        if self.draft_tokens < 0:
            raise InvalidValue(
                f"draft_tokens must be at least 0, not {self.draft_tokens}", param="draft_tokens"
            )
        if self.cache_dir is not None and not self.prefix_caching:
            raise InvalidValue("cache_dir keeps what prefix_caching shares, which is off", param="cache_dir")
        if self.max_batch_tokens < self.max_running:
            raise InvalidValue(
                f"max_batch_tokens ({self.max_batch_tokens}) must be at least max_running ({self.max_running}), "
                "so that every answer gets one token per step",
                param="max_batch_tokens",
            )


_COUNTS = (
    "max_model_len",
    "max_batch_tokens",
    "max_running",
    "max_waiting",
    "cache_tokens",
    "page_size",
    "cache_dir_bytes",
    "fim_seam",
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


def page_count(
    config: ModelConfig, settings: EngineSettings, dtype: torch.dtype, device: torch.device
) -> int:
    """Pages of a new engine's cache."""
    if settings.cache_tokens is not None:
        return settings.cache_tokens // settings.page_size
    context = settings.max_model_len or config.max_position_embeddings
    wanted = -(-context // settings.page_size) * settings.max_running
    return min(wanted, affordable_tokens(config, dtype, device) // settings.page_size)


def affordable_tokens(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> int:
    """Tokens whose latents fill a quarter of the memory that is free on `device` now."""
    return free_bytes(device) // 4 // bytes_per_token(config, dtype)


def longest_context(config: ModelConfig, settings: EngineSettings, cache_tokens: int) -> int:
    """Tokens of prompt and answer that a cache of `cache_tokens` serves; InvalidValue when too few."""
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
