"""The first rank of several: its part of the model, and all that every rank does alike.

Ranks are processes that each hold a part of the model. The first is the one that serves; it tells the others
(`rank_processes`) every forward pass and every change of the cache (`mirrored`), since each has the whole latent
cache, and they follow (`follower`). Then all meet in the sums of `model.parallel`. Decode steps are recorded on each
rank, the sums in them, and repeated by all in the same order; every rank has all logits, bit for bit, and the same
rules, so each draws the same tokens for itself.
"""

import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from coderv2.engine.follower import READY, Follower
from coderv2.engine.mirrored import MirroredCache, MirroredSteps
from coderv2.engine.opening import Opening
from coderv2.engine.rank_processes import RankProcesses
from coderv2.engine.recording import Recorder, recorder_for
from coderv2.engine.steps import Model
from coderv2.errors import BadCheckpoint, CoderV2Error, InvalidValue, Unsupported
from coderv2.kernels.scaled import Kind
from coderv2.model.cache import LatentCache
from coderv2.model.config import ModelConfig
from coderv2.model.loading import grain, open_config
from coderv2.model.parallel import Split
from coderv2.model.weights import check_config, take_values

Weights: TypeAlias = Path | str | Mapping[str, Tensor]
"""A checkpoint's folder, or tensors by their published names."""


class Ranks(RankProcesses):
    """The first rank's model, and the other ranks."""

    ATTENTION: ClassVar[Literal["heads", "tokens"]] = "heads"
    FOLLOWER: ClassVar[type[Follower]] = Follower

    def __init__(
        self,
        folder: Path,
        split: Split,
        *,
        dtype: torch.dtype | None = None,
        device: str = "cpu",
        scaled: Kind | None = None,
        on_failure: Callable[[], object] = lambda: None,
        recorder: Callable[[torch.device], Recorder | None] = recorder_for,
    ) -> None:
        """Starts the others and loads all parts. Unsupported or InvalidValue for what cannot be cut or is not there."""
        if split.attention != self.ATTENTION:
            raise Unsupported(f"these ranks cut attention by {self.ATTENTION}, not by {split.attention}")
        split = replace(split, grain=grain(folder, dtype, scaled))
        _check(open_config(folder), split, device)
        if dist.is_initialized():
            raise Unsupported(
                "this process is one of several ranks already: end those first (`LLM.close()`)",
                param="tensor_parallel_size",
            )
        self.forget: Callable[[], object] = lambda: None
        """Lets go of what was recorded."""
        self._opening = Opening(folder, split, dtype, device, scaled, _free_port(), recorder)
        super().__init__(self._opening, self.FOLLOWER, on_failure)
        try:
            self.model = self._opening.open(0)
            for rank, word in self.words():
                if word != READY:
                    raise self.stopped(f"rank {rank} did not start: {word}")
        except (CoderV2Error, KeyboardInterrupt):
            self.stop()
            raise
        except Exception as error:
            stopped = self.stopped(f"the first rank did not start: {error!r}")
            self.stop()
            raise stopped from error

    @property
    def size(self) -> int:
        """How many there are."""
        return self._opening.split.size

    def update(self, source: Weights) -> None:
        """New weights on every rank, each its part, once all have read theirs; nothing has changed when it raises.

        The weights are there twice meanwhile. Raises what the first rank found wrong, or BadCheckpoint with what
        another did.
        """
        if isinstance(source, Mapping):
            raise Unsupported(
                "several ranks take new weights from a folder, of which each reads its own part"
            )
        folder = Path(source)
        self.tell("prepare", folder)
        refused: CoderV2Error | None = None
        try:
            check_config(self.model.config, open_config(folder), folder)
            new = self._opening.part(0, folder)
        except CoderV2Error as error:
            refused = error
        wrong = [word for _, word in self.words() if word != READY]
        if refused is None and wrong:
            refused = BadCheckpoint(wrong[0])
        if refused is not None:
            self.tell("abandon")
            raise refused
        self.tell("commit")
        take_values(self.model, new)

    def cache(
        self, config: ModelConfig, pages: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> MirroredCache:
        """A cache on every rank."""
        self.tell("make_cache", config, pages, page_size, dtype)
        return MirroredCache(self, config, pages, page_size, dtype, device)

    def recorder(self) -> Recorder | None:
        """How the first rank records decode steps; the others do it the same way."""
        return self._opening.recorder(self.model.device)

    def steps(
        self, model: Model, cache: LatentCache, *, most: int, pages: int, recorder: Recorder
    ) -> MirroredSteps:
        """Decode steps that every rank records and repeats, over the caches that are there."""
        self.tell("make_steps", most, pages)
        steps = MirroredSteps(self, model, cache, most=most, pages=pages, recorder=recorder)
        self.forget = steps.forget
        return steps

    def stop(self) -> None:
        """Ends the others; again: nothing happens."""
        self.forget()  # NCCL waits for graphs that hold its sums before it lets a group go
        super().stop()


def _check(config: ModelConfig, split: Split, device: str) -> None:
    split.local(config)
    split.stack(config)
    if device == "cuda" and torch.cuda.device_count() < split.size:
        raise InvalidValue(
            f"{split.size} ranks need as many GPUs; here are {torch.cuda.device_count()}",
            param="tensor_parallel_size",
        )


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
