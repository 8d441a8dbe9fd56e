"""The whole forward pass: golden vectors of an independent implementation, and equality between its own forms."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from coderv2.model.attention import crossing
from coderv2.model.batch import Batch, RouterRecord
from coderv2.model.cache import LatentCache, bytes_per_token
from coderv2.model.config import ModelConfig
from coderv2.model.transformer import Transformer
from tests.parity import relative_error, sample_ids
from tests.published import FULL, LITE
from tests.tiny import tiny_config, tiny_model

GOLDEN = json.loads((Path(__file__).parent / "golden_logits.json").read_text())


@pytest.mark.parametrize("family", ["lite", "full"])
def test_logits_match_the_golden_vectors_past_the_original_context(family: str) -> None:
    golden = GOLDEN[family]
    ids = sample_ids(golden["tokens"])
    with torch.inference_mode():
        logits = tiny_model(tiny_config(family))(Batch.packed([ids]))
    expected = torch.tensor(golden["logits"])
    assert relative_error(logits[golden["rows"]][:, : expected.shape[1]], expected) < 2e-5


@pytest.mark.parametrize("family", ["lite", "full"])
def test_greedy_continuation_matches_the_golden_tokens(family: str) -> None:
    golden = GOLDEN[family]
    model = tiny_model(tiny_config(family))
    assert greedy(model, sample_ids(golden["prompt_tokens"]), len(golden["greedy"])) == golden["greedy"]


def greedy(model: Transformer, prompt: Sequence[int], count: int) -> list[int]:
    """Decodes over the latent cache, one token at a time."""
    cache = LatentCache(model.config, -(-(len(prompt) + count) // 16), 16, torch.float32)
    tokens, new = list(prompt), list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            batch = Batch.cached(cache, [new], [len(tokens) - len(new)], [range(cache.pages)])
            new = [int(model(batch).argmax())]
            tokens += new
    return tokens[len(prompt) :]


@pytest.mark.parametrize("family", ["lite", "full"])
@pytest.mark.parametrize("chunks", [[300], [1] * 5 + [295], [100, 7, 1, 60, 132]])
def test_absorbed_over_the_cache_equals_expanded_without_it(family: str, chunks: list[int]) -> None:
    model, ids = tiny_model(tiny_config(family)), sample_ids(300)
    cache = LatentCache(model.config, 60, 16, torch.float32)
    pages = torch.randperm(60, generator=torch.Generator().manual_seed(1))[:19].tolist()
    logits, done = [], 0
    with torch.inference_mode():
        for size in chunks:
            batch = Batch.cached(cache, [ids[done : done + size]], [done], [pages], all_logits=True)
            logits.append(model(batch))
            done += size
        assert relative_error(torch.cat(logits), model(Batch.packed([ids]))) < 1e-4


def test_both_forms_in_one_batch_give_what_each_sequence_gives_alone() -> None:
    model = tiny_model(tiny_config())
    wide = int(crossing(model.config)) + 3
    ids = sample_ids(wide + 30)
    cache = LatentCache(model.config, 40, 16, torch.float32)
    tables = [list(range(i * 8, i * 8 + 8)) for i in range(4)]
    with torch.inference_mode():
        model(Batch.cached(cache, [ids[:20], ids[5:9]], [0, 0], tables[:2]))
        together = model(
            Batch.cached(
                cache,
                [ids[20:23], ids[:wide], ids[9:10], ids[7:12]],
                [20, 0, 4, 0],
                [tables[0], tables[2], tables[1], tables[3]],
            )
        )
        alone = [model(Batch.packed([s]))[-1] for s in (ids[:23], ids[:wide], ids[5:10], ids[7:12])]
    assert relative_error(together, torch.stack(alone)) < 1e-4


def test_packed_documents_do_not_see_each_other() -> None:
    model, ids = tiny_model(tiny_config()), sample_ids(40)
    with torch.inference_mode():
        packed = model(Batch.packed([ids[:25], ids[25:]]))
        apart = torch.cat([model(Batch.packed([ids[:25]])), model(Batch.packed([ids[25:]]))])
    assert relative_error(packed, apart) < 1e-5


def test_router_log_holds_one_record_per_moe_layer_and_gradients_reach_every_weight() -> None:
    log: list[RouterRecord] = []
    model = tiny_model(tiny_config()).train()
    logits = model(Batch.packed([sample_ids(64)], router_log=log))
    (logits.logsumexp(-1).mean() + sum(record.scores_TE.square().sum() for record in log)).backward()
    assert len(log) == 2
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


@pytest.mark.parametrize(
    ("published", "per_token", "cross"), [(LITE, 31_104, 170.67), (FULL, 69_120, 170.67)]
)
def test_cache_size_and_crossing_point_of_the_released_models(
    published: dict[str, object], per_token: int, cross: float
) -> None:
    config = ModelConfig.from_dict(published)
    assert bytes_per_token(config) == per_token
    assert crossing(config) == pytest.approx(cross, abs=0.01)


def test_the_wanted_logits_are_those_of_each_sequences_last_tokens() -> None:
    model = tiny_model(tiny_config())
    sequences = [sample_ids(9), sample_ids(5), sample_ids(7)]
    tables = [[0, 1, 2], [3, 4], [5, 6]]

    def logits(**wanted: Any) -> torch.Tensor:
        cache = LatentCache(model.config, 7, 4, torch.float32)
        with torch.inference_mode():
            logits_RW: torch.Tensor = model(Batch.cached(cache, sequences, [0, 0, 0], tables, **wanted))
        return logits_RW

    every = logits(all_logits=True)
    torch.testing.assert_close(logits(wanted=[3, 1, 7]), every[[6, 7, 8, 13, *range(14, 21)]])
    torch.testing.assert_close(logits(), every[[8, 13, 20]])
