import numpy as np
import pytest
import torch
import torch.nn.functional as F

from coderv2.data.shards import Example, as_example
from coderv2.model.batch import Batch
from coderv2.training.losses import next_tokens, row_loss
from tests.tiny import tiny_config, tiny_model


def test_a_document_is_never_asked_for_the_next_ones_first_token() -> None:
    targets = next_tokens([as_example([5, 6, 7]), as_example([8, 9])])
    assert targets.tolist() == [6, 7, -1, 9, -1]


def test_only_trained_tokens_are_targets() -> None:
    masked = Example(np.array([5, 6, 7, 8]), np.array([True, False, True, True]))
    assert next_tokens([masked]).tolist() == [-1, 7, 8, -1]


def test_packing_changes_no_documents_loss() -> None:
    model = tiny_model(tiny_config())
    rows = [as_example([5, 6, 7, 8]), as_example([9, 10, 11])]
    with torch.no_grad():
        apart = [row_loss(model, [row], alpha=0.0) for row in rows]
        together = row_loss(model, rows, alpha=0.0)
    assert together.nats == pytest.approx(sum(loss.nats for loss in apart), rel=1e-5)
    assert together.targets == 5


def test_the_loss_is_cross_entropy_plus_the_balance_loss_per_target() -> None:
    model = tiny_model(tiny_config())
    ids = [5, 6, 7, 8]
    with torch.no_grad():
        logits_TW = model(Batch.packed([ids]))
        plain, balanced = (row_loss(model, [as_example(ids)], alpha=alpha) for alpha in (0.0, 0.1))
    expected = F.cross_entropy(logits_TW[:-1], torch.tensor(ids[1:]), reduction="sum")
    assert plain.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    layers = 2  # of three, the first is dense
    assert balanced.loss.item() - balanced.nats == pytest.approx(balanced.balance * layers * 3, rel=1e-3)
    assert balanced.balance >= 0.1 * 0.9  # alpha when perfectly even, more when not
