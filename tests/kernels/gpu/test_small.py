"""Norms, rotation, cache rows and routing beside the reference."""

import pytest
import torch

from tests.kernels.gpu.place import DEVICE, close, numbers
from coderv2.kernels import reference
from coderv2.kernels.gpu import small
from coderv2.kernels.ops import Ops
from coderv2.kernels.routing import Routing
from coderv2.model.moe import routing
from tests.tiny import tiny_config

DTYPES = [torch.float32, torch.bfloat16]


def _tables(T: int, R: int) -> tuple[torch.Tensor, torch.Tensor]:
    angle_TR2 = numbers(T, R // 2, seed=5)
    return angle_TR2.cos(), angle_TR2.sin()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_of_rows_that_lie_apart(dtype: torch.dtype) -> None:
    x_TD, weight_D = numbers(3, 60, dtype=dtype)[:, :41], numbers(41, seed=1, dtype=dtype)
    close(small.rms_norm(x_TD, weight_D, 1e-6), reference.rms_norm(x_TD, weight_D, 1e-6))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [0, 3])
def test_rope(heads: int, dtype: torch.dtype) -> None:
    x = numbers(4, heads, 20, dtype=dtype) if heads else numbers(4, 20, dtype=dtype)
    # The rotary part of a wider head, as attention cuts it.
    x, tables = x[..., 12:], _tables(4, 8)
    close(small.rope(x, *tables), reference.rope(x, *tables))


@pytest.mark.parametrize("cache", [*DTYPES, torch.float8_e4m3fn, torch.float8_e5m2])
def test_latents_go_into_the_cache_in_one_launch(cache: torch.dtype) -> None:
    raw_TX, weight_C, tables = numbers(3, 40), numbers(32, seed=1), _tables(3, 8)
    slots = torch.tensor([7, 0, 9], device=DEVICE)
    ours, plain = (
        [torch.zeros(3, 4, w, device=DEVICE, dtype=d) for w in (32, 8)] for d in (cache, torch.float32)
    )
    small.cache_latents(raw_TX, weight_C, 1e-6, *tables, *ours, slots)
    Ops.cache_latents(raw_TX, weight_C, 1e-6, *tables, *plain, slots)
    for mine, wanted in zip(ours, plain, strict=True):
        step = {
            torch.float32: 1e-5,
            torch.bfloat16: 2**-8,
            torch.float8_e4m3fn: 2**-3,
            torch.float8_e5m2: 2**-2,
        }[cache]
        close(mine.float(), wanted.to(cache).float(), rtol=step, atol=1e-5)


def test_a_small_cache_keeps_its_largest_number_instead_of_infinity() -> None:
    pages = [torch.zeros(1, 4, 16, device=DEVICE, dtype=torch.float8_e4m3fn) for _ in range(2)]
    rows = numbers(1, 16) * 1e5
    small.cache_write(*pages, torch.tensor([2], device=DEVICE), rows, rows)
    assert torch.equal(pages[0][0, 2].float(), rows[0].sign() * 448)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["lite", "full", "renormalised"])
def test_route(family: str, dtype: torch.dtype) -> None:
    config = tiny_config("lite", norm_topk_prob=True) if family == "renormalised" else tiny_config(family)
    _check_route(routing(config), config.n_routed_experts, dtype)


@pytest.mark.skipif(DEVICE.type == "cpu", reason="the interpreter finds the first NaN; a GPU, any place")
def test_a_row_that_is_not_finite_chooses_experts_that_there_are() -> None:
    """Twenty of the 32 that a tile has; what is beyond them in memory is no expert."""
    x_TD, how = numbers(3, 32), Routing(top=3, groups=1, kept=1, scaling=1.0, renormalise=False)
    x_TD[1] = float("nan")
    _, _, experts_TK = small.route(x_TD, numbers(20, 32, seed=1), how)
    assert bool(((experts_TK >= 0) & (experts_TK < 20)).all())


def _check_route(how: Routing, E: int, dtype: torch.dtype) -> None:
    x_TD, weight_ED = numbers(19, 72, dtype=dtype), numbers(E, 72, seed=1, dtype=dtype)
    ours, wanted = small.route(x_TD, weight_ED, how), Ops.route(x_TD, weight_ED, how)
    close(ours[0], wanted[0])
    close(ours[1], wanted[1], rtol=1e-4, atol=1e-5)
    assert torch.equal(ours[2], wanted[2])
