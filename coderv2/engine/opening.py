"""How a rank comes to its part of the model: it joins the others, then loads what is its own."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from coderv2 import paths
from coderv2.engine.recording import Recorder, recorder_for
from coderv2.kernels.scaled import Kind
from coderv2.model.loading import open_model
from coderv2.model.parallel import Split, Team
from coderv2.model.transformer import Transformer


@dataclass(frozen=True)
class Opening:
    """The same for every rank, and sent to each."""

    folder: Path
    split: Split
    dtype: torch.dtype | None
    device: str
    """cpu, or cuda: then rank r takes the r-th GPU."""
    scaled: Kind | None
    port: int
    recorder: Callable[[torch.device], Recorder | None] = recorder_for
    """How a rank records decode steps on its device, if at all."""

    def open(self, rank: int) -> Transformer:
        """Joins the others, which waits for all of them, and loads."""
        if self.device == "cuda":
            torch.cuda.set_device(rank)
        else:
            torch.set_num_threads(max(paths.threads() // self.split.size, 1))
        dist.init_process_group(
            "nccl" if self.device == "cuda" else "gloo",
            init_method=f"tcp://127.0.0.1:{self.port}",
            rank=rank,
            world_size=self.split.size,
            timeout=timedelta(minutes=10),
        )
        # Now, since it waits for all; later one may be gone.
        hosts = dist.new_group(backend="gloo") if self.split.attention == "tokens" else None
        return self.part(rank, self.folder, hosts)

    def part(self, rank: int, folder: Path, hosts: dist.ProcessGroup | None = None) -> Transformer:
        """Its part of a folder's weights; what ranks say from `hosts` to hosts only matters for the model that runs."""
        place = f"cuda:{rank}" if self.device == "cuda" else "cpu"
        team = Team(replace(self.split, rank=rank), hosts=hosts)
        return open_model(
            folder, dtype=self.dtype, device=place, progress=rank == 0, scaled=self.scaled, team=team
        )
