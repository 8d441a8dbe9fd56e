"""Each operation against a slower, more literal writing of its equation."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coderv2.kernels import reference
from coderv2.kernels.ops import Ops


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_every_op_names_a_reference_definition() -> None:
    # Class methods are made of several of them.
    for name in {name for name, op in vars(Ops).items() if isinstance(op, staticmethod)}:
        assert getattr(Ops, name).__doc__ == getattr(reference, name).__doc__ != ""


def test_rope_turns_interleaved_pairs_as_complex_numbers() -> None:
    x_THR, angle_TR2 = _random(5, 2, 8), _random(5, 4, seed=1)
    turned = reference.rope(x_THR, angle_TR2.cos(), angle_TR2.sin())
    pairs = torch.view_as_complex(x_THR.unflatten(-1, (-1, 2)).contiguous())
    expected = torch.view_as_real(
        pairs * torch.polar(torch.ones_like(angle_TR2), angle_TR2)[:, None]
    ).flatten(-2)
    torch.testing.assert_close(turned, expected)


def _attention(q_TX: torch.Tensor, k_SX: torch.Tensor, v_SV: torch.Tensor, scale: float) -> torch.Tensor:
    """One head, one query at a time, in double precision."""
    q_TX, k_SX, v_SV = q_TX.double(), k_SX.double(), v_SV.double()
    context = len(k_SX) - len(q_TX)
    rows = [
        (scale * k_SX[: context + t + 1] @ q).softmax(0) @ v_SV[: context + t + 1] for t, q in enumerate(q_TX)
    ]
    return torch.stack(rows).float()


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=4))
@settings(max_examples=30)
def test_mla_prefill_attends_within_each_sequence_only(shape: list[tuple[int, int]]) -> None:
    q_starts = list(itertools.accumulate((new for new, _ in shape), initial=0))
    k_starts = list(itertools.accumulate((new + old for new, old in shape), initial=0))
    q, k, v = (
        _random(q_starts[-1], 2, 6),
        _random(k_starts[-1], 2, 6, seed=1),
        _random(k_starts[-1], 2, 4, seed=2),
    )
    out = reference.mla_prefill(q, k, v, q_starts=q_starts, k_starts=k_starts, scale=0.3)
    for b in range(len(shape)):
        rows, keys = slice(*q_starts[b : b + 2]), slice(*k_starts[b : b + 2])
        for head in range(2):
            expected = _attention(q[rows, head], k[keys, head], v[keys, head], 0.3)
            torch.testing.assert_close(out[rows, head], expected, rtol=1e-4, atol=1e-5)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 20)), min_size=1, max_size=4), st.randoms())
@settings(max_examples=30)
def test_mla_decode_reads_each_sequences_own_pages_in_order(
    shape: list[tuple[int, int]], random: object
) -> None:
    page_size, C, R = 4, 6, 2
    pages = list(range(40))
    random.shuffle(pages)  # type: ignore[attr-defined]
    latent_PSC, k_rope_PSR = _random(40, page_size, C), _random(40, page_size, R, seed=1)
    starts = list(itertools.accumulate((new for new, _ in shape), initial=0))
    lengths = [new + old for new, old in shape]
    tables = [torch.tensor([pages.pop() for _ in range(-(-length // page_size))]) for length in lengths]
    q_latent, q_rope = _random(starts[-1], 2, C, seed=2), _random(starts[-1], 2, R, seed=3)
    out = reference.mla_decode(
        q_latent,
        q_rope,
        latent_PSC,
        k_rope_PSR,
        starts=starts,
        lengths=lengths,
        page_tables=tables,
        scale=0.3,
    )
    for b, (length, table) in enumerate(zip(lengths, tables, strict=True)):
        rows = slice(*starts[b : b + 2])
        latent, k_rope = latent_PSC[table].flatten(0, 1)[:length], k_rope_PSR[table].flatten(0, 1)[:length]
        for head in range(2):
            q = torch.cat((q_latent[rows, head], q_rope[rows, head]), -1)
            expected = _attention(q, torch.cat((latent, k_rope), -1), latent, 0.3)
            torch.testing.assert_close(out[rows, head], expected, rtol=1e-4, atol=1e-5)


def test_cache_write_touches_only_its_slots() -> None:
    latent_PSC, k_rope_PSR = torch.zeros(3, 4, 5), torch.zeros(3, 4, 2)
    slots = torch.tensor([7, 0, 9])
    reference.cache_write(latent_PSC, k_rope_PSR, slots, _random(3, 5), _random(3, 2))
    assert torch.equal(latent_PSC.flatten(0, 1)[slots], _random(3, 5))
    assert torch.equal(k_rope_PSR.flatten(0, 1)[slots], _random(3, 2))
    assert latent_PSC.flatten(0, 1).abs().sum(-1).nonzero().flatten().tolist() == [0, 7, 9]


@pytest.mark.parametrize("tokens", [1, 17])
def test_experts_is_the_weighted_sum_over_each_tokens_own_experts(tokens: int) -> None:
    E, F, D, K = 5, 4, 6, 3
    x, gate, up, down = (
        _random(tokens, D),
        _random(E, F, D, seed=1),
        _random(E, F, D, seed=2),
        _random(E, D, F, seed=3),
    )
    weights, ids = _random(tokens, E, seed=4).softmax(-1).topk(K)
    out = reference.experts(x, weights, ids, gate, up, down)
    for t in range(tokens):
        terms = [
            w * reference.swiglu(x[t : t + 1], gate[e], up[e], down[e])[0]
            for w, e in zip(weights[t], ids[t], strict=True)
        ]
        torch.testing.assert_close(out[t], torch.stack(terms).sum(0), rtol=1e-4, atol=1e-5)


def test_router_is_float32_even_on_bfloat16_input() -> None:
    x, weight = _random(3, 8).bfloat16(), _random(4, 8, seed=1).bfloat16()
    scores = reference.router(x, weight)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, (x.float() @ weight.float().T).softmax(-1))


def test_rms_norm_of_large_bfloat16_values_stays_finite() -> None:
    x = torch.full((1, 4), 3e38, dtype=torch.bfloat16)
    assert not reference.rms_norm(x * 1e-20, torch.ones(4, dtype=torch.bfloat16), 1e-6).isnan().any()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_what_exceeds_an_fp8_cache_becomes_its_largest_number(dtype: torch.dtype) -> None:
    most = torch.finfo(dtype).max
    latent_PSC, k_rope_PSR = torch.zeros(2, 4, 2).to(dtype), torch.zeros(2, 4, 1).to(dtype)
    rows = torch.tensor([[1e6, -1e6], [0.5, -2.0]]), torch.tensor([[-1e9], [1.0]])
    reference.cache_write(latent_PSC, k_rope_PSR, torch.tensor([6, 1]), *rows)
    assert latent_PSC.flatten(0, 1).float()[[6, 1]].tolist() == [[most, -most], [0.5, -2.0]]
    assert k_rope_PSR.flatten(0, 1).float()[[6, 1]].tolist() == [[-most], [1.0]]
