"""Decode steps as recorded graphs: one token for each of a padded number of sequences, the likeliest next included.

On a GPU a decode step is a few hundred short kernels, and starting them one by one takes longer than they do. A CUDA
graph starts them all at once, but only the same ones over the same memory. So each padded number of sequences has its
graph, and all that changes from step to step stands in buffers that stay where they are: tokens, places, page tables.
Rows that only fill up read and write a page that belongs to nobody.

Nothing inside a step asks what a number is: the host learns the likeliest tokens once, at the end. Requests that draw,
or change logits first, go on from the logits as after any pass.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from coderv2.engine.sampler import Peaks
from coderv2.engine.scheduler import Chunk
from coderv2.kernels import drawing
from coderv2.model.batch import Batch
from coderv2.model.cache import LatentCache

Outputs = tuple[Tensor, Tensor]
"""Logits [B, W]; and for each row the likeliest token and whether all logits are finite: int64 [2, B]."""


class Model(Protocol):
    """What a step runs."""

    @property
    def device(self) -> torch.device:
        """Where the buffers lie."""

    def __call__(self, batch: Batch, /) -> Tensor:
        """Float32 logits."""


Recorder = Callable[[Callable[[], Outputs]], Callable[[], Outputs]]
"""From a step to something that repeats it."""


class CudaGraph:
    """A recorded step; the outputs are always the same tensors."""

    def __init__(self, step: Callable[[], Outputs]) -> None:
        # Once beforehand, on a stream of its own as PyTorch asks, so that every kernel is compiled.
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            step()
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = step()

    def __call__(self) -> Outputs:
        """Once more, with what the buffers hold now."""
        self._graph.replay()
        return self._outputs


def padded_sizes(most: int) -> list[int]:
    """Numbers of sequences that get a graph: few, and none much larger than the next smaller."""
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, most + 32, 32)]
    return [*(size for size in sizes if size < most), most]


@dataclass(frozen=True)
class Buffers:
    """What changes from step to step, for the largest number of sequences, on the device and before the copy to it."""

    numbers: Tensor
    """int64 [4, B]: token, position, slot, length."""
    table_BP: Tensor
    """int32."""

    @classmethod
    def empty(cls, B: int, pages: int, device: torch.device, *, pinned: bool = False) -> "Buffers":
        """Zeros; `pinned` memory copies without the host waiting."""
        shapes = (((4, B), torch.int64), ((B, pages), torch.int32))
        return cls(*(torch.zeros(s, dtype=d, device=device, pin_memory=pinned) for s, d in shapes))

    def take(self, other: "Buffers", B: int, pages: int) -> None:
        """The first B sequences' values, without waiting."""
        self.numbers[:, :B].copy_(other.numbers[:, :B], non_blocking=True)
        self.table_BP[:B, :pages].copy_(other.table_BP[:B, :pages], non_blocking=True)


class Step:
    """A decode step of B sequences over buffers."""

    def __init__(self, model: Model, cache: LatentCache, buffers: Buffers, B: int, pages: int) -> None:
        self._model, self._cache, self._B = model, cache, B
        self._numbers = buffers.numbers[:, :B]
        self._table_BP = buffers.table_BP[:B, :pages]
        self._starts_B1 = torch.arange(B + 1, dtype=torch.int32, device=model.device)

    def __call__(self) -> Outputs:
        """One pass and its peaks."""
        logits_BW = self._model(self._batch())
        likeliest_B, finite_B = drawing.peaks(logits_BW)
        return logits_BW, torch.stack((likeliest_B, finite_B.long()))

    def _batch(self) -> Batch:
        token_B, position_B, slot_B, length_B = self._numbers
        B = self._B
        batch = Batch(
            token_ids_T=token_B,
            positions_T=position_B,
            starts=tuple(range(B + 1)),
            contexts=(0,) * B,
            cache=self._cache,
            page_tables=self._table_BP.unbind(),
            slots_T=slot_B,
        )
        spans = batch.ops.spans_over(self._starts_B1, length_B.int(), self._table_BP, 1)
        return batch.over(spans)


class DecodeGraphs:
    """The graphs of one engine, each recorded when it is first wanted."""

    def __init__(
        self, model: Model, cache: LatentCache, *, most: int, pages: int, nobody: int, recorder: Recorder
    ) -> None:
        """For up to `most` sequences of up to `pages` pages; the cache's page `nobody` is given to no request."""
        self._model, self._cache, self._record = model, cache, recorder
        self._pages, self._nobody = pages, nobody
        self._sizes = padded_sizes(most)
        self._device = Buffers.empty(most, pages, model.device)
        pinned = model.device.type == "cuda"
        self._host = Buffers.empty(most, pages, torch.device("cpu"), pinned=pinned)
        self._steps: dict[int, Callable[[], Outputs]] = {}

    def takes(self, chunks: Sequence[Chunk]) -> bool:
        """True for a step that decodes: one token and one row of logits of each sequence."""
        plain = all(len(chunk.token_ids) == 1 and not chunk.draft for chunk in chunks)
        return plain and len(chunks) <= self._sizes[-1]

    def run(self, chunks: Sequence[Chunk]) -> tuple[Tensor, Peaks]:
        """Logits [R, W] and their peaks."""
        R = len(chunks)
        B = self._sizes[bisect_left(self._sizes, R)]
        used = self._write(chunks, B)
        self._device.take(self._host, B, used)
        if B not in self._steps:
            self._steps[B] = self._record(Step(self._model, self._cache, self._device, B, self._pages))
        logits_BW, peaks_2B = self._steps[B]()
        likeliest, finite = peaks_2B[:, :R].tolist()
        return logits_BW[:R], (likeliest, [bool(flag) for flag in finite])

    def _write(self, chunks: Sequence[Chunk], B: int) -> int:
        """Fills the host's buffers; the pages of the longest table."""
        size, spare = self._cache.page_size, B - len(chunks)
        rows = [_numbers(chunk, size) for chunk in chunks]
        filler = (0, 0, self._nobody * size, 1)
        self._host.numbers[:, :B] = torch.tensor([*rows, *[filler] * spare]).T
        tables = [chunk.request.pages for chunk in chunks]
        used = max(map(len, tables))
        filled = [[*table, *[self._nobody] * (used - len(table))] for table in tables]
        self._host.table_BP[:B, :used] = torch.tensor(
            filled + [[self._nobody] * used] * spare, dtype=torch.int32
        )
        return used


def _numbers(chunk: Chunk, page_size: int) -> tuple[int, ...]:
    place = chunk.context
    slot = chunk.request.pages[place // page_size] * page_size + place % page_size
    return chunk.token_ids[0], place, slot, place + 1


def recorder_for(device: torch.device) -> Recorder | None:
    """How steps are recorded there: on a GPU only."""
    return CudaGraph if device.type == "cuda" else None
