"""Matrix registers give the bits that vector registers give, whatever the format and the number of rows."""

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from coderv2.kernels import cpu, native
from coderv2.kernels.formats import FORMATS
from tests.kernels.packed import random, random_weight

ROWS = (1, 6, 7, 13, 16, 17, 33, 100)

pytestmark = pytest.mark.skipif("amx" not in cpu.available(), reason="this processor has no matrix registers")


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module, set to use them."""
    module = cpu.opened("amx")
    monkeypatch.setattr(native, "kernels", module)
    yield module
    module.use_tiles(cpu.isa() == "amx")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("columns", [32, 250, 1408])
def test_a_product_has_the_same_bits(tiles: ModuleType, name: str, columns: int) -> None:
    weight = random_weight(name, 40, columns)
    for rows in ROWS:
        x_TD = random(rows, columns, seed=rows)
        by_tiles = native.linear(x_TD, weight)
        tiles.use_tiles(False)
        assert torch.equal(by_tiles, native.linear(x_TD, weight)), rows
        assert tiles.use_tiles(True)


@pytest.mark.parametrize("down", ["int4", "bf16", "q6_two"])
def test_experts_have_the_same_bits_beside_a_format_that_tiles_do_not_take(
    tiles: ModuleType, down: str
) -> None:
    routed = (
        random_weight("int4", 3, 48, 512),
        random_weight("int4", 3, 48, 512, seed=1),
        random_weight(down, 3, 512, 48),
    )
    x_TD = random(64, 512)
    weights_TK, experts_TK = random(64, 3, seed=2).softmax(-1).topk(2)
    by_tiles = native.mixture(x_TD, weights_TK, experts_TK, routed, None)
    tiles.use_tiles(False)
    assert torch.equal(by_tiles, native.mixture(x_TD, weights_TK, experts_TK, routed, None))
