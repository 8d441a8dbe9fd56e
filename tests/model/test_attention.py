"""A long context's keys expanded piece by piece: the same logits as all at once, packed or plain."""

from pathlib import Path

import pytest
import torch

from coderv2.kernels.cpu import kernels
from coderv2.kernels.latents import KINDS
from coderv2.model import attention
from coderv2.model.batch import Batch
from coderv2.model.cache import LatentCache
from coderv2.model.loading import open_model
from coderv2.model.pack import pack_model
from coderv2.model.transformer import Transformer
from coderv2.model.weights import load, save
from tests.parity import relative_error, sample_ids
from tests.tiny import tiny_config, tiny_model

TABLES = [[5, 0, 9, 8, 1], [7, 2, 6, 3, 4]]


def _logits(model: Transformer, dtype: torch.dtype) -> torch.Tensor:
    """Of two sequences' second chunks, one of them with a longer context than the other."""
    cache = LatentCache(model.config, 10, 16, dtype)
    generator = torch.Generator().manual_seed(3)
    tokens = [torch.randint(500, (count,), generator=generator).tolist() for count in (60, 9, 17, 20)]
    with torch.inference_mode():
        model(Batch.cached(cache, tokens[:2], [0, 0], TABLES))
        return model(Batch.cached(cache, tokens[2:], [60, 9], TABLES, all_logits=True))


@pytest.mark.parametrize(
    "packed", [False, pytest.param(True, marks=pytest.mark.skipif(kernels is None, reason="no kernels"))]
)
@pytest.mark.parametrize("dtype", KINDS)
def test_pieces_of_a_context_give_the_logits_of_the_whole(
    packed: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Transformer(tiny_config()).initialise(0.3, seed=1)
    model = pack_model(model, lambda _: "f32") if packed else model
    monkeypatch.setattr(attention, "crossing", lambda _: 2)
    whole = _logits(model, dtype)
    monkeypatch.setattr(attention, "PIECE", 8)
    joined: list[int] = []
    join = attention._joined
    monkeypatch.setattr(attention, "_joined", lambda *parts: joined.append(1) or join(*parts))  # type: ignore[func-returns-value]
    pieces = _logits(model, dtype)
    assert len(joined) > 10
    # A cache that rounds may round a later layer's latent to the neighbour.
    close = 1e-4 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(pieces, whole, rtol=close, atol=close)


@pytest.mark.skipif(kernels is None, reason="weights are packed for the CPU kernels")
@pytest.mark.parametrize(("N", "V"), [(24, 24), (24, 16), (16, 24)])
def test_heads_that_are_no_whole_blocks_of_rows_are_expanded_too(N: int, V: int, tmp_path: Path) -> None:
    """Only the absorbed form took them, so that longer prompts failed."""
    save(tiny_model(tiny_config(qk_nope_head_dim=N, v_head_dim=V)), tmp_path)
    batch = Batch.packed([sample_ids(40)])
    with torch.inference_mode():
        assert relative_error(open_model(tmp_path)(batch), load(tmp_path)(batch)) < 1e-3
