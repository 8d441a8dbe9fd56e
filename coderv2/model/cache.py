"""The latent cache: 512 latent and 64 rotary numbers per token and layer, in pages (spec §4.5)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from coderv2.kernels.latents import stored, stored_width, widened
from coderv2.kernels.memory import fresh_bytes
from coderv2.kernels.ops import Ops
from coderv2.model.config import ModelConfig
from coderv2.model.rope import inverse_frequencies, turning_table


def bytes_per_token(config: ModelConfig, dtype: torch.dtype = torch.bfloat16) -> int:
    """What one token costs in all layers together: 31,104 bytes for Lite in bfloat16, 15,984 in int8."""
    numbers = stored_width(config.kv_lora_rank, dtype) + stored_width(config.qk_rope_head_dim, dtype)
    return config.num_hidden_layers * numbers * dtype.itemsize


class LatentCache:
    """Normalised latents and rotated keys of all tokens, `latent_LPSC` and `k_rope_LPSR`.

    Their last axis is as `latents` stores a row. Which page belongs to whom is the caller's business; the cache is only
    the memory. It is made zeroed, since a page read beyond its owner's length would otherwise bring NaN into a sum that
    ought to ignore it.
    """

    def __init__(
        self,
        config: ModelConfig,
        pages: int,
        page_size: int,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (config.num_hidden_layers, pages, page_size)
        widths = (stored_width(width, dtype) for width in (config.kv_lora_rank, config.qk_rope_head_dim))
        self.latent_LPSC, self.k_rope_LPSR = (
            _zeros((*shape, width), dtype, torch.device(device)) for width in widths
        )
        self.pages = pages
        self.page_size = page_size
        self._inv_freq = inverse_frequencies(config, torch.device(device))

    def copy_page(self, source: int, target: int) -> None:
        """Copies one page's content over another's, in all layers."""
        for part in (self.latent_LPSC, self.k_rope_LPSR):
            part[:, target] = part[:, source]

    def clear(self, pages: Sequence[int]) -> None:
        """Zeroes pages that may hold NaN."""
        for part in (self.latent_LPSC, self.k_rope_LPSR):
            part[:, list(pages)] = 0

    @torch.inference_mode()
    def move(self, source: Sequence[int], old: range, target: Sequence[int], new: range) -> None:
        """Copies a sequence's places `old`, in the pages `source`, to the places `new` in the pages `target`.

        Latents as they are, rotary numbers turned from their old positions to the new.
        """
        old_S, new_S = (
            torch.arange(places.start, places.stop, device=self._inv_freq.device) for places in (old, new)
        )
        tables = (torch.tensor(pages, device=old_S.device) for pages in (source, target))
        old_slots_S, new_slots_S = (
            self.slots(table)[places] for table, places in zip(tables, (old_S, new_S), strict=True)
        )
        cos_SR2, sin_SR2 = turning_table(old_S, new_S, self._inv_freq)
        for latent_PSC, k_rope_PSR in zip(self.latent_LPSC, self.k_rope_LPSR, strict=True):
            latents, keys = latent_PSC.flatten(0, 1), k_rope_PSR.flatten(0, 1)
            latents[new_slots_S] = latents[old_slots_S]
            turned_SR = Ops.rope(
                widened(keys[old_slots_S], 2 * cos_SR2.shape[1], torch.float32), cos_SR2, sin_SR2
            )
            keys[new_slots_S] = stored(turned_SR, keys.dtype)

    def slots(self, table_P: Tensor) -> Tensor:
        """Every slot of the pages in `table_P`, in order: page · page size + place in the page."""
        places_S = torch.arange(self.page_size, device=table_P.device)
        return (table_P[:, None] * self.page_size + places_S).flatten()


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that cost no memory and no time until written, where the system can do that.

    `torch.zeros` writes them all, which for gigabytes takes seconds of every start.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return fresh_bytes(math.prod(shape) * dtype.itemsize).view(dtype).view(shape)
