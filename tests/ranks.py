"""Several processes that compute one tiny model together, for tests: what runs in each of them."""

import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from coderv2.model.batch import Batch
from coderv2.model.cache import LatentCache
from coderv2.model.parallel import Split, Team
from coderv2.model.transformer import Transformer
from coderv2.model.weights import load

PROMPTS = [[(7 * i + r) % 500 + 3 for i in range(35 + 3 * r)] for r in range(4)]


@torch.inference_mode()
def logits(model: Transformer, prompts: Sequence[Sequence[int]]) -> Tensor:
    """After whole prompts (expanded), and after one more token of each (absorbed), [2 · prompts, W]."""
    cache = LatentCache(model.config, 4 * len(prompts), 16, torch.float32)
    tables = [list(range(4 * b, 4 * b + 4)) for b in range(len(prompts))]
    steps = [([*prompts], [0] * len(prompts)), ([[9]] * len(prompts), [len(prompt) for prompt in prompts])]
    return torch.cat([model(Batch.cached(cache, new, contexts, tables)) for new, contexts in steps])


def run(size: int, folder: Path, splits: Sequence[Split], out: Path, **how: Any) -> None:
    """Starts `size` processes, which `load` the folder and write their logits for each split as `out/SPLIT-RANK.pt`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_rank, (size, port, folder, list(splits), out, how), nprocs=size)


def _rank(
    rank: int, size: int, port: int, folder: Path, splits: Sequence[Split], out: Path, how: dict[str, Any]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    for number, split in enumerate(splits):
        team = Team(replace(split, rank=rank, size=size))
        model = load(folder, **({"dtype": torch.float32} | how), team=team)
        mine = PROMPTS if split.attention == "heads" else [PROMPTS[rank]]
        torch.save(
            (logits(model, mine), sum(p.numel() for p in model.parameters())), out / f"{number}-{rank}.pt"
        )
    dist.destroy_process_group()
