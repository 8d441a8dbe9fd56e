"""Experts move while a model runs: the most used come to the device, a piece of one between two passes.

Which experts are used changes with what is asked: another language, another task. So choices are counted in every pass,
where they are made; once in `EVERY` passes the counts are looked at, older ones at half their weight each time, and
experts in RAM that were clearly more used than some of their layer on the device are to have their places. How many
places a layer has there does not change.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from coderv2.model import usage
from coderv2.model.moe import Experts
from coderv2.model.offload import move
from coderv2.model.transformer import Transformer
from coderv2.model.usage import Usage

EVERY = 128
"""Passes between two looks at the counts, which make the host wait for the device. Not yet measured on a GPU."""
ROUND = 16
"""Experts that move before the counts are looked at again."""
CLEARLY = 1.5
"""So many times as often must an expert have been chosen as the one whose place it takes: what is even stays put."""


@dataclass(frozen=True)
class Move:
    """An expert of a layer that is to have a place on the device."""

    gain: float
    """Choices that it was ahead."""
    experts: Experts
    expert: int
    place: int


_DONE = object()


class Mover:
    """Called between two passes of a model whose choices are counted (`usage.watch`)."""

    def __init__(self, model: Transformer, *, every: int = EVERY) -> None:
        """Layers take part that have places on the device and all their experts in RAM."""
        stacks = ((layer, mixture.experts) for layer, mixture in usage.mixtures(model))
        self._layers = {layer: e for layer, e in stacks if e.in_ram is not None and e.in_ram.all_here}
        self._model, self._every = model, every
        self._passes = 0
        self._before = usage.counted(model)
        self._recent = {layer: [0.0] * len(counts) for layer, counts in self._before.counts.items()}
        self._moves: Iterator[None] = iter(())

    @torch.inference_mode()
    def __call__(self) -> None:
        """Brings at the most one piece of one expert."""
        self._passes += 1
        if not self._layers or next(self._moves, _DONE) is not _DONE or self._passes < self._every:
            return
        self._passes = 0
        self._moves = self._carried_out(self._look())

    def _look(self) -> list[Move]:
        now = usage.counted(self._model)
        self._recent = {layer: self._faded(layer, now) for layer in now.counts}
        self._before = now
        wanted = [one for layer, experts in self._layers.items() for one in self._wanted(layer, experts)]
        return sorted(wanted, key=lambda one: -one.gain)[:ROUND]

    @staticmethod
    def _carried_out(moves: list[Move]) -> Iterator[None]:
        for one in moves:
            yield from move(one.experts, one.expert, one.place)

    def _faded(self, layer: int, now: Usage) -> list[float]:
        rows = zip(self._recent[layer], self._before.counts[layer], now.counts[layer], strict=True)
        return [recent / 2 + count - before for recent, before, count in rows]

    def _wanted(self, layer: int, experts: Experts) -> Iterator[Move]:
        """The most used in RAM for the places of the least used on the device, as long as that is clearly better."""
        assert experts.in_ram is not None
        recent, near = self._recent[layer], experts.in_ram.near
        far = sorted(set(range(len(recent))) - set(near), key=lambda e: -recent[e])
        places = sorted(range(len(near)), key=lambda place: recent[near[place]])
        for expert, place in zip(far, places, strict=False):
            if recent[expert] > CLEARLY * recent[near[place]]:
                yield Move(recent[expert] - recent[near[place]], experts, expert, place)
