"""The next-token loss over packed rows, and the expert balance loss beside it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from coderv2.data.shards import Example
from coderv2.model.batch import Batch, RouterRecord
from coderv2.model.moe import balance_loss
from coderv2.model.transformer import Transformer


@dataclass(frozen=True)
class RowLoss:
    """Sums over one row, so that rows add up to a step."""

    loss: Tensor
    """To be differentiated: summed cross-entropy, plus the balance loss times the targets."""
    nats: float
    """Summed cross-entropy alone."""
    targets: int
    balance: float
    """Mean balance loss of a layer; `alpha` when perfectly even."""


def row_loss(model: Transformer, row: Sequence[Example], *, alpha: float) -> RowLoss:
    """Loss of every trained token given those before it in its own document."""
    records: list[RouterRecord] = []
    batch = Batch.packed(
        [torch.from_numpy(example.ids.astype(np.int64)) for example in row],
        device=model.device,
        router_log=records,
    )
    targets_T = next_tokens(row).to(model.device)
    nats = F.cross_entropy(model(batch), targets_T, ignore_index=-1, reduction="sum")
    count = int((targets_T >= 0).sum())
    balance = sum((balance_loss(record, batch.starts, alpha=alpha) for record in records), torch.zeros(()))
    return RowLoss(nats + balance * count, nats.item(), count, balance.item() / max(len(records), 1))


def next_tokens(row: Sequence[Example]) -> Tensor:
    """For each place its document's next token, or -1 where nothing is to be learnt; int64 [T]."""
    targets = [
        np.append(np.where(example.trained, example.ids.astype(np.int64), -1)[1:], -1) for example in row
    ]
    return torch.from_numpy(np.concatenate(targets))
