"""One model on several processes: which part of every weight each has, and the sums that make them one again.

Heads, the inner widths of feed-forwards and the vocabulary are cut into equal parts; then each rank's output is a term
of a sum, and one sum after attention and one after the feed-forward is all that a layer needs to say. Experts may be
dealt out whole instead of cut. With `attention="tokens"` every rank has all heads and its own sequences: the latent
cache, which knows no heads and so cannot be cut by them, is then not there on each rank again. What is cut in a
feed-forward sees the tokens of all ranks in turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from coderv2.errors import Unsupported
from coderv2.model.config import ModelConfig

# The axis along which a matrix of this name is cut: outputs 0, inputs 1. What is not here every rank has whole.
_HEADS = {"q_proj": 0, "q_b_proj": 0, "kv_b_proj": 0, "o_proj": 1}
_WIDTHS = {"gate_proj": 0, "up_proj": 0, "down_proj": 1}
_VOCABULARY = {"embed_tokens": 0, "lm_head": 0}
_STACKS_OF_HEADS = ("key_up", "key_absorb", "value_up")
"""What packed attention has in place of kv_b_proj."""


@dataclass(frozen=True)
class Split:
    """What one rank of `size` has of a model. Unsupported names a number that cannot be cut so."""

    rank: int = 0
    size: int = 1
    experts: Literal["cut", "dealt"] = "cut"
    """Each rank a part of every routed expert, or some experts whole."""
    attention: Literal["heads", "tokens"] = "heads"
    """Each rank some heads of all sequences, or all heads of its own sequences."""
    grain: int = 1
    """Widths are cut at multiples of so many, where quants share scales; then parts may differ by a grain."""

    def share(self, count: int, what: str) -> int:
        """This rank's part of `count`."""
        if count % self.size:
            raise Unsupported(f"{what} of {count} cannot be cut for {self.size} ranks: not divisible")
        return count // self.size

    def columns(self, width: int, what: str) -> range:
        """This rank's part of a feed-forward's inner width."""
        if self.grain == 1:
            return self._equal(width, what)
        grains = -(-width // self.grain)
        if grains < self.size:
            raise Unsupported(
                f"{what} of {width} cannot be cut for {self.size} ranks: its quants go together in {grains} times "
                f"{self.grain}; take fewer ranks"
            )
        begin, end = (rank * grains // self.size * self.grain for rank in (self.rank, self.rank + 1))
        return range(begin, min(end, width))

    def local(self, config: ModelConfig) -> ModelConfig:
        """The shapes of this rank's attention and dense feed-forward."""
        heads = config.num_attention_heads
        return replace(
            config,
            num_attention_heads=heads if self.attention == "tokens" else self.share(heads, "heads"),
            intermediate_size=len(self.columns(config.intermediate_size, "intermediate_size")),
            vocab_size=self.words(config),
        )

    def words(self, config: ModelConfig) -> int:
        """Rows of embedding and head; with its own tokens a rank needs all."""
        return (
            config.vocab_size
            if self.attention == "tokens"
            else self.share(config.vocab_size, "the vocabulary")
        )

    def stack(self, config: ModelConfig) -> tuple[int, int]:
        """Routed experts here, and the width of each."""
        E, F = config.n_routed_experts, config.moe_intermediate_size
        if self.experts == "dealt":
            return self.share(E, "routed experts"), F
        return E, len(self.columns(F, "moe_intermediate_size"))

    def first_expert(self, config: ModelConfig) -> int:
        """The first of those here."""
        return self.rank * self.stack(config)[0] if self.experts == "dealt" else 0

    def own_experts(self, experts_TK: Tensor, config: ModelConfig) -> Tensor:
        """Numbers within this rank's stack, -1 for the experts of others."""
        if self.experts == "cut" or self.size == 1:
            return experts_TK
        own_TK = experts_TK - self.first_expert(config)
        return own_TK.masked_fill((own_TK < 0) | (own_TK >= self.stack(config)[0]), -1)

    def part(self, name: str, tensor: Tensor) -> Tensor:
        """This rank's part of a published tensor, as a view."""
        for axis, own in enumerate(self.ranges(name, tensor.shape)):
            if len(own) < tensor.shape[axis]:
                tensor = tensor.narrow(axis, own.start, len(own))
        return tensor

    def ranges(self, name: str, shape: Sequence[int]) -> list[range]:
        """What this rank has along each axis of a published tensor, or of a parameter of ours: stacks come first."""
        stem = name.removesuffix(".weight").rpartition(".")[2]
        own, axis = [range(count) for count in shape], self._axis(name, stem)
        heads = stem in _STACKS_OF_HEADS and self.attention == "heads"
        if heads or (self.experts == "dealt" and ".experts." in name and len(shape) > 2):
            own[0] = self._equal(shape[0], name)
        elif axis is not None:
            place = len(shape) - 2 + axis
            cut = self.columns if stem in _WIDTHS else self._equal
            own[place] = cut(shape[place], name)
        return own

    def _equal(self, count: int, what: str) -> range:
        each = self.share(count, what)
        return range(self.rank * each, (self.rank + 1) * each)

    def _axis(self, name: str, stem: str) -> int | None:
        if self.attention == "heads" and (axis := (_HEADS | _VOCABULARY).get(stem)) is not None:
            return axis
        whole = self.experts == "dealt" and ".experts." in name
        return None if whole else _WIDTHS.get(stem)


class Team:
    """The ranks of one model as one of them sees it: what they say to each other in a forward pass."""

    def __init__(
        self,
        split: Split | None = None,
        group: dist.ProcessGroup | None = None,
        hosts: dist.ProcessGroup | None = None,
    ) -> None:
        """Alone by default; a group that is None is the default process group.

        `hosts` is for numbers in the host's memory: through a GPU's group they would wait for all that it was given.
        """
        self.split = split or Split()
        self._group, self._hosts = group, hosts

    def sum(self, x: Tensor) -> Tensor:
        """The sum of all ranks' terms, on every rank."""
        if self.split.size > 1:
            dist.all_reduce(x, group=self._group)
        return x

    def after_attention(self, x_TD: Tensor) -> Tensor:
        """Heads are terms of a sum; whole sequences are not."""
        return self.sum(x_TD) if self.split.attention == "heads" else x_TD

    def counts(self, tokens: int) -> tuple[int, ...]:
        """How many tokens each rank has in this pass; asked once a pass."""
        if self.split.attention == "heads":
            return (tokens,)
        return tuple(count for (count,) in self.heard(tokens))

    def heard(self, *numbers: int) -> list[tuple[int, ...]]:
        """As many numbers of every rank, in order of the ranks."""
        mine = torch.tensor(numbers)
        every = [torch.empty_like(mine) for _ in range(self.split.size)]
        dist.all_gather(every, mine, group=self._hosts)
        return [tuple(theirs) for theirs in torch.stack(every).tolist()]

    def everyone(self, x_TD: Tensor, counts: Sequence[int]) -> Tensor:
        """The rows of all ranks, in order of the ranks."""
        if self.split.attention == "heads" or self.split.size == 1:
            return x_TD
        # Equal shapes for all, since not every backend gathers others.
        filled = x_TD.new_zeros(max(counts), x_TD.shape[1])
        filled[: len(x_TD)] = x_TD
        rows = [torch.empty_like(filled) for _ in counts]
        dist.all_gather(rows, filled, group=self._group)
        return torch.cat([part[:count] for part, count in zip(rows, counts, strict=True)])

    def own(self, x_UD: Tensor, counts: Sequence[int]) -> Tensor:
        """This rank's rows of those that `everyone` brought."""
        if self.split.attention == "heads" or self.split.size == 1:
            return x_UD
        begin = sum(counts[: self.split.rank])
        return x_UD[begin : begin + counts[self.split.rank]]

    def own_words(self, token_ids_T: Tensor, rows: int) -> tuple[Tensor, Tensor | None]:
        """Rows of this rank's part of the embedding, and where the token is not among them."""
        if self.split.attention == "tokens" or self.split.size == 1:
            return token_ids_T, None
        own_T = token_ids_T - self.split.rank * rows
        foreign_T = (own_T < 0) | (own_T >= rows)
        return own_T.masked_fill(foreign_T, 0), foreign_T

    def all_words(self, logits_Rw: Tensor) -> Tensor:
        """The parts of the vocabulary side by side, [R, W]."""
        if self.split.attention == "tokens" or self.split.size == 1:
            return logits_Rw
        parts = [torch.empty_like(logits_Rw) for _ in range(self.split.size)]
        dist.all_gather(parts, logits_Rw.contiguous(), group=self._group)
        return torch.cat(parts, -1)
