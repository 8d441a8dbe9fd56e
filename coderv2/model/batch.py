"""Everything that one forward pass needs to know about its tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from coderv2.kernels.ops import Ops, pick
from coderv2.model.cache import LatentCache


@dataclass(frozen=True)
class RouterRecord:
    """What one MoE layer decided: affinities before the choice, and the chosen experts."""

    scores_TE: Tensor
    experts_TK: Tensor


@dataclass(frozen=True)
class Group:
    """Some sequences of a batch: those whose attention takes one form."""

    rows: Tensor | slice
    """Their rows on the batch's T axis."""
    starts: tuple[int, ...]
    """Where each of them begins within `rows`, and the end."""
    lengths: tuple[int, ...]
    """All tokens of each, context included."""
    page_tables: tuple[Tensor, ...]
    """Pages of each in order; none without a cache."""


@dataclass(frozen=True)
class Batch:
    """Sequences laid end to end on one axis T, with or without a cache behind them."""

    token_ids_T: Tensor
    positions_T: Tensor
    starts: tuple[int, ...]
    """Sequence b owns rows `starts[b]:starts[b+1]`."""
    contexts: tuple[int, ...]
    """Tokens of each sequence that are in the cache already."""
    logits_rows: Tensor | None = None
    """Rows whose logits are wanted; all when None."""
    cache: LatentCache | None = None
    page_tables: tuple[Tensor, ...] = ()
    slots_T: Tensor | None = None
    """Where in the cache each token is written."""
    router_log: list[RouterRecord] | None = field(default=None, compare=False)
    """Each MoE layer appends its record here when this is a list: training's balance loss reads it."""

    deterministic: bool = False
    """Every row's bits depend on its own sequence only; with a cache."""
    computed_by: type[Ops] | None = field(default=None, compare=False)
    """Ops in place of the usual ones, for example some that take notes; None: whoever is best where the tokens lie."""
    counts: tuple[int, ...] | None = None
    """Tokens of every rank in this pass, where all have agreed on them; None: they are asked, if each has its own."""
    spans: dict[str, Any] | None = None
    """All sequences as `mla_decode` takes them, where they are there already: a captured graph has its own."""

    @property
    def ops(self) -> type[Ops]:
        """Who computes this pass."""
        return self.computed_by or pick(deterministic=self.deterministic, device=self.token_ids_T.device)

    @classmethod
    def empty(cls, device: torch.device) -> "Batch":
        """No sequence."""
        nothing_T = torch.empty(0, dtype=torch.long, device=device)
        return cls(token_ids_T=nothing_T, positions_T=nothing_T, starts=(0,), contexts=())

    @classmethod
    def packed(
        cls,
        sequences: Sequence[Sequence[int]] | Sequence[Tensor],
        *,
        device: torch.device | str = "cpu",
        router_log: list[RouterRecord] | None = None,
    ) -> "Batch":
        """Whole documents without a cache: each attends only to itself and counts positions from 0."""
        starts = _starts(sequences)
        return cls(
            token_ids_T=_flat(sequences, device),
            positions_T=torch.cat([torch.arange(len(s)) for s in sequences]).to(device),
            starts=starts,
            contexts=(0,) * len(sequences),
            router_log=router_log,
        )

    @classmethod
    def cached(
        cls,
        cache: LatentCache,
        new_tokens: Sequence[Sequence[int]],
        contexts: Sequence[int],
        page_tables: Sequence[Sequence[int]],
        *,
        all_logits: bool = False,
        wanted: Sequence[int] | None = None,
        deterministic: bool = False,
    ) -> "Batch":
        """New tokens of sequences whose first `contexts[b]` tokens are in the cache at `page_tables[b]`.

        Each table must have pages for context and new tokens together. Logits: those of each sequence's last
        `wanted[b]` tokens, in order, 1 each when None; or of every token with `all_logits`.
        """
        device = cache.latent_LPSC.device
        starts = _starts(new_tokens)
        tables = tuple(torch.tensor(table, dtype=torch.long, device=device) for table in page_tables)
        spans = [range(c, c + len(s)) for c, s in zip(contexts, new_tokens, strict=True)]
        size = cache.page_size
        # Whole numbers of Python's: for the few tokens of a decode step they cost less than tensors would.
        slots = [
            table[place // size] * size + place % size
            for table, span in zip(page_tables, spans, strict=True)
            for place in span
        ]
        return cls(
            token_ids_T=torch.tensor([token for s in new_tokens for token in s], device=device),
            positions_T=torch.tensor([place for span in spans for place in span], device=device),
            starts=starts,
            contexts=tuple(contexts),
            logits_rows=None if all_logits else _last_rows(starts, wanted, device),
            cache=cache,
            page_tables=tables,
            slots_T=torch.tensor(slots, device=device),
            deterministic=deterministic,
        )

    def over(self, spans: dict[str, Any]) -> "Batch":
        """The same with its sequences as `mla_decode` takes them."""
        return replace(self, spans=spans)

    def group(self, members: Sequence[int]) -> Group:
        """The sequences `members`, in order, as one group."""
        spans = [(self.starts[b], self.starts[b + 1]) for b in members]
        everyone = len(members) == len(self.contexts)
        device = self.token_ids_T.device
        return Group(
            rows=slice(None)
            if everyone
            else torch.cat([torch.arange(*span, device=device) for span in spans]),
            starts=tuple(accumulate((end - start for start, end in spans), initial=0)),
            lengths=tuple(self.contexts[b] + self.starts[b + 1] - self.starts[b] for b in members),
            page_tables=tuple(self.page_tables[b] for b in members) if self.cache else (),
        )


def _starts(sequences: Sequence[Sequence[int]] | Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(accumulate((len(s) for s in sequences), initial=0))


def _last_rows(starts: Sequence[int], wanted: Sequence[int] | None, device: torch.device | str) -> Tensor:
    if wanted is None:
        return torch.tensor(starts[1:], device=device) - 1
    spans = [range(end - count, end) for end, count in zip(starts[1:], wanted, strict=True)]
    return torch.tensor([row for span in spans for row in span], dtype=torch.long, device=device)


def _flat(sequences: Sequence[Sequence[int]] | Sequence[Tensor], device: torch.device | str) -> Tensor:
    return torch.cat([torch.as_tensor(s, dtype=torch.long) for s in sequences]).to(device)
