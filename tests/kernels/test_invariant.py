"""Row-invariant operations: the reference's numbers, and no bit that depends on company."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coderv2.kernels import invariant, reference


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 300), st.sampled_from([24, 64, 100]), st.sampled_from([1, 8, 33]))
@settings(max_examples=25)
def test_linear_gives_a_row_the_same_bits_alone_and_in_any_crowd(rows: int, width: int, out: int) -> None:
    x_TD, weight_OD = _random(300, width), _random(out, width, seed=1)
    crowd_TO = invariant.linear(x_TD[:rows], weight_OD)
    torch.testing.assert_close(crowd_TO, reference.linear(x_TD[:rows], weight_OD))
    for row in {0, rows // 2, rows - 1}:
        assert torch.equal(invariant.linear(x_TD[row : row + 1], weight_OD)[0], crowd_TO[row])


@given(st.integers(1, 40))
@settings(max_examples=15)
def test_swiglu_of_a_width_that_fits_no_vector_is_row_invariant(rows: int) -> None:
    x_TD, gate, up, down = (
        _random(40, 24),
        _random(25, 24, seed=1),
        _random(25, 24, seed=2),
        _random(24, 25, seed=3),
    )
    crowd_TD = invariant.swiglu(x_TD[:rows], gate, up, down)
    torch.testing.assert_close(crowd_TD, reference.swiglu(x_TD[:rows], gate, up, down), rtol=1e-4, atol=1e-4)
    alone_TD = torch.cat([invariant.swiglu(row_1D, gate, up, down) for row_1D in x_TD[:rows].split(1)])
    assert torch.equal(crowd_TD, alone_TD)


def test_silu_of_very_negative_numbers_is_zero() -> None:
    assert torch.equal(invariant._silu(torch.tensor([-200.0, 0.0])), torch.tensor([-0.0, 0.0]))


@pytest.mark.parametrize("tokens", [1, 37])
def test_experts_agree_with_the_reference_and_with_each_token_alone(tokens: int) -> None:
    x, ids = _random(tokens, 24), _random(tokens, 6, seed=4)
    gate, up, down = _random(6, 20, 24, seed=1), _random(6, 20, 24, seed=2), _random(6, 24, 20, seed=3)
    weights_TK, experts_TK = ids.softmax(-1).topk(3)
    crowd = invariant.experts(x, weights_TK, experts_TK, gate, up, down)
    expected = reference.experts(x, weights_TK, experts_TK, gate, up, down)
    torch.testing.assert_close(crowd, expected, rtol=1e-4, atol=1e-3)
    for t in range(tokens):
        row = slice(t, t + 1)
        alone = invariant.experts(x[row], weights_TK[row], experts_TK[row], gate, up, down)
        assert torch.equal(alone[0], crowd[t])


@given(st.integers(1, 300), st.integers(0, 300), st.data())
@settings(max_examples=20)
def test_attention_of_a_chunk_is_bitwise_that_of_its_tokens_one_by_one(
    new: int, old: int, data: st.DataObject
) -> None:
    page_size, H, C, R = 8, 3, 16, 4
    table = torch.randperm(80, generator=torch.Generator().manual_seed(new))[: -(-(new + old) // page_size)]
    latent, k_rope = _random(80, page_size, C), _random(80, page_size, R, seed=1)
    q_latent, q_rope = _random(new, H, C, seed=2), _random(new, H, R, seed=3)
    options = {"page_tables": [table], "scale": 0.3}
    whole = invariant.mla_decode(
        q_latent, q_rope, latent, k_rope, starts=[0, new], lengths=[new + old], **options
    )
    expected = reference.mla_decode(
        q_latent, q_rope, latent, k_rope, starts=[0, new], lengths=[new + old], **options
    )
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-5)
    t = data.draw(st.integers(0, new - 1))
    row = slice(t, t + 1)
    alone = invariant.mla_decode(
        q_latent[row], q_rope[row], latent, k_rope, starts=[0, 1], lengths=[old + t + 1], **options
    )
    assert torch.equal(alone[0], whole[t])


def test_garbage_after_a_sequences_end_in_its_last_page_is_not_read() -> None:
    latent, k_rope = _random(1, 8, 16), _random(1, 8, 4, seed=1)
    latent[0, 3:], k_rope[0, 3:] = float("nan"), float("nan")
    q_latent, q_rope = _random(1, 2, 16, seed=2), _random(1, 2, 4, seed=3)
    tables = [torch.tensor([0])]
    out = invariant.mla_decode(
        q_latent, q_rope, latent, k_rope, starts=[0, 1], lengths=[3], page_tables=tables, scale=1.0
    )
    assert out.isfinite().all()


def test_head_linear_is_each_heads_own_product() -> None:
    x_THI, weight_HIO = _random(21, 3, 8), _random(3, 8, 5, seed=1)
    torch.testing.assert_close(
        invariant.head_linear(x_THI, weight_HIO),
        reference.head_linear(x_THI, weight_HIO),
        rtol=1e-4,
        atol=1e-5,
    )


def test_no_row_depends_on_the_others_for_the_products_of_this_machine() -> None:
    assert invariant.disagreement(_random(40, 24)) is None


def test_a_product_that_adds_in_another_order_for_few_rows_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fickle(x_TD: torch.Tensor, weight_OD: torch.Tensor) -> torch.Tensor:
        if x_TD.shape[0] > 64:
            return x_TD @ weight_OD.T
        return x_TD[:, :50] @ weight_OD[:, :50].T + x_TD[:, 50:] @ weight_OD[:, 50:].T

    monkeypatch.setattr(invariant.F, "linear", fickle)
    assert invariant.disagreement(_random(40, 100)) == "64 rows at once give other bits than 256"
