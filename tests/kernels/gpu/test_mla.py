"""Latent attention in both forms beside the reference, for any lengths, pages and splits."""

from itertools import accumulate
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.gpu.place import DEVICE, close, numbers
from coderv2.kernels import reference
from coderv2.kernels.gpu import mla, tiles

PAGE = 4


def _cache(pages: int, C: int, R: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return numbers(pages, PAGE, C).to(dtype), numbers(pages, PAGE, R, seed=1).to(dtype)


def _decode(
    shape: list[tuple[int, int]], *, H: int, C: int, R: int, cache: torch.dtype, seed: int = 0
) -> None:
    """`shape`: new tokens and tokens before them, of each sequence."""
    lengths = [new + old for new, old in shape]
    free = list(range(sum(-(-length // PAGE) for length in lengths) + 3))
    Random(seed).shuffle(free)
    tables = [torch.tensor([free.pop() for _ in range(-(-n // PAGE))], device=DEVICE) for n in lengths]
    pages = _cache(len(free) + sum(map(len, tables)), C, R, cache)
    starts = list(accumulate((new for new, _ in shape), initial=0))
    queries = numbers(starts[-1], H, C, seed=2), numbers(starts[-1], H, R, seed=3)
    spans = {"starts": starts, "lengths": lengths, "page_tables": tables}
    ours = mla.mla_decode(*queries, *pages, **spans, scale=0.3)  # type: ignore[arg-type]
    # As a recorded step has them: the first pages of all lie together.
    table_BP = torch.nn.utils.rnn.pad_sequence(tables).int().T
    whole = (torch.tensor(some, dtype=torch.int32, device=DEVICE) for some in (starts, lengths))
    laid = mla.Spans(*whole, table_BP, max(new for new, _ in shape))
    assert torch.equal(mla.mla_decode(*queries, *pages, starts=laid, scale=0.3), ours)
    plain = [part.float() for part in pages]
    close(ours, reference.mla_decode(*queries, *plain, **spans, scale=0.3))  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 40)), min_size=1, max_size=3), st.integers(0, 9))
@settings(max_examples=8)
def test_decode_reads_each_sequences_own_pages(shape: list[tuple[int, int]], seed: int) -> None:
    _decode(shape, H=4, C=32, R=8, cache=torch.float32, seed=seed)


@pytest.mark.parametrize("cache", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_decode_widens_a_smaller_cache(cache: torch.dtype) -> None:
    _decode([(1, 20), (2, 0)], H=4, C=32, R=8, cache=cache)


def test_decode_joins_the_parts_of_long_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mla, "SHORTEST", 16)
    assert mla._splits(2, 150, DEVICE) > 1
    # The second has nothing for most parts: what nobody writes, nobody reads.
    monkeypatch.setattr(torch, "empty", lambda *shape, device: torch.full(shape, float("nan"), device=device))
    _decode([(1, 149), (1, 3)], H=2, C=16, R=8, cache=torch.float32)


def test_decode_with_more_heads_than_a_tile_has_rows() -> None:
    _decode([(2, 5)], H=24, C=16, R=16, cache=torch.float32)


def test_splits_fill_the_gpu_and_no_more() -> None:
    cpu = torch.device("cpu")
    assert mla._splits(1, 100_000, cpu) == 2 * tiles.INTERPRETED
    assert mla._splits(1, 300, cpu) == 3
    assert mla._splits(100, 100_000, cpu) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("X", "V"), [(24, 16), (16, 16)])
def test_prefill_with_heads_of_two_widths_and_a_context(X: int, V: int, dtype: torch.dtype) -> None:
    q_starts, k_starts = (0, 3, 70, 71), (0, 3, 75, 90)
    q, k = numbers(71, 2, X, dtype=dtype), numbers(90, 2, X, seed=1, dtype=dtype)
    v = numbers(90, 2, V, seed=2, dtype=dtype)
    where = {"q_starts": q_starts, "k_starts": k_starts}
    ours = mla.mla_prefill(q, k, v, **where, scale=0.3)
    close(ours, reference.mla_prefill(q, k, v, **where, scale=0.3))


def test_tiles_fit_the_shared_memory_of_a_desk_card() -> None:
    small = tiles.Card("desk", 80, tiles.SMALL_MEMORY)
    for rows in (16, 128, 2048):
        BM, BN, *_ = mla._decode_tile(rows, 512, 2, small)
        # Queries once, two steps of latents and keys, in bfloat16.
        assert 2 * ((BM + 2 * BN) * 576) <= tiles.SMALL_MEMORY
    BM, BN = mla._prefill_tile(2, small)
    assert 2 * (BM * 192 + 2 * BN * (192 + 128)) <= tiles.SMALL_MEMORY
