"""What the first rank changes outside a forward pass, changed on every rank: the cache, and recorded steps."""

from collections.abc import Sequence
from typing import Any

from coderv2.engine.rank_processes import RankProcesses
from coderv2.engine.steps import Given, Started, Steps
from coderv2.model.cache import LatentCache


class MirroredCache(LatentCache):
    """A cache whose every change outside a forward pass is made on all ranks."""

    def __init__(self, ranks: RankProcesses, *shape: Any) -> None:
        super().__init__(*shape)
        self._ranks = ranks

    def copy_page(self, source: int, target: int) -> None:
        """Everywhere."""
        self._ranks.tell("copy_page", source, target)
        super().copy_page(source, target)

    def clear(self, pages: Sequence[int]) -> None:
        """Everywhere."""
        self._ranks.tell("clear", list(pages))
        super().clear(pages)

    def move(self, source: Sequence[int], old: range, target: Sequence[int], new: range) -> None:
        """Everywhere."""
        self._ranks.tell("move", list(source), old, list(target), new)
        super().move(source, old, target, new)


class MirroredSteps(Steps):
    """Steps that are started on all ranks, in the same order."""

    def __init__(self, ranks: RankProcesses, *parts: Any, **sizes: Any) -> None:
        super().__init__(*parts, **sizes)
        self._ranks = ranks

    def start(self, given: Given) -> Started:
        """Everywhere."""
        self._ranks.tell("start", given)
        return super().start(given)
