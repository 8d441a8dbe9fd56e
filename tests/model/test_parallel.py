"""Several processes give the logits of one, and each reads its own part of the weights only."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Literal

import pytest
import torch

from coderv2.errors import Unsupported
from coderv2.kernels.formats import Weight
from coderv2.model.loading import grain
from coderv2.model.parallel import Split, Team
from coderv2.model.transformer import Transformer
from coderv2.model.weights import load
from tests import ranks
from tests.model.fp8_files import LAYOUTS, fp8_folder
from tests.model.gguf_files import needs_kernels
from tests.tiny import tiny_config

SPLITS = [Split(experts=e, attention=a) for e, a in product(("cut", "dealt"), ("heads", "tokens"))]


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("family", ["tiny_checkpoint", "tiny_full_checkpoint"])
def test_logits_are_those_of_one_process(
    family: str, size: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(family)
    one = load(folder, dtype=torch.float32)
    wanted = ranks.logits(one, ranks.PROMPTS)
    whole = sum(p.numel() for p in one.parameters())
    ranks.run(size, folder, SPLITS, tmp_path)
    for number, split in enumerate(SPLITS):
        for rank in range(size):
            found, count = torch.load(tmp_path / f"{number}-{rank}.pt")
            # With tokens of its own a rank has the rows of its own prompt.
            rows = slice(None) if split.attention == "heads" else slice(rank, None, len(ranks.PROMPTS))
            torch.testing.assert_close(found, wanted[rows], rtol=0, atol=1e-4)
            assert count < whole * (0.65 if size == 2 else 0.45) or split.attention == "tokens"


@needs_kernels
@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_fp8_checkpoint_on_two_ranks_has_the_logits_of_one_process(layout: str, tmp_path: Path) -> None:
    """Codes and scales stay what they are, and widths are cut where scales are."""
    folder = tmp_path / "fp8"
    fp8_folder(folder, layout)
    wanted = ranks.logits(load(folder, packed=True), ranks.PROMPTS)
    splits = [replace(split, grain=grain(folder)) for split in SPLITS[::2]]
    ranks.run(2, folder, splits, tmp_path, packed=True, dtype=None)
    for number in range(len(splits)):
        for rank in range(2):
            found, _ = torch.load(tmp_path / f"{number}-{rank}.pt")
            assert (
                found - wanted
            ).norm() < 0.01 * wanted.norm()  # sums in another order, rounded to bfloat16


def _shapes(model: Transformer) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Of all weights; packed ones have the keys of attention twice, once turned."""
    yield from ((name, tuple(parameter.shape)) for name, parameter in model.named_parameters())
    for stem, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Weight) and name != "key_absorb":
                yield f"{stem}.{name}", value.shape


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("experts", ["cut", "dealt"])
@pytest.mark.parametrize("size", [2, 4])
def test_a_rank_holds_its_part_and_nothing_else(
    tiny_full_checkpoint: Path, size: int, experts: Literal["cut", "dealt"], packed: bool
) -> None:
    """Each cut weight is there once over all ranks, and only norms, routers and maps to latents on every one."""

    def count(model: Transformer) -> tuple[int, int]:
        sizes = {True: 0, False: 0}
        for name, shape in _shapes(model):
            whole = len(shape) == 1 or name.endswith((".gate", "q_a_proj", "kv_a_proj_with_mqa"))
            sizes[whole] += math.prod(shape)
        return sizes[True], sizes[False]

    one = load(tiny_full_checkpoint, dtype=torch.float32)
    everywhere, cut = count(one)
    for rank in range(size):
        team = Team(Split(rank, size, experts))
        part = load(tiny_full_checkpoint, dtype=torch.float32, packed=packed, team=team)
        assert count(part) == (everywhere, cut // size)


def test_parts_tile_every_weight() -> None:
    tensor = torch.arange(24.0).view(6, 4)
    for name, axis in (("model.layers.1.self_attn.o_proj.weight", 1), ("lm_head.weight", 0)):
        parts = [Split(rank, 2).part(name, tensor) for rank in range(2)]
        assert torch.equal(torch.cat(parts, axis), tensor)
    assert Split(1, 2).part("model.layers.1.mlp.gate.weight", tensor) is tensor
    dealt = Split(1, 2, experts="dealt")
    assert dealt.part("model.layers.1.mlp.experts.3.up_proj.weight", tensor) is tensor
    assert dealt.part("model.layers.1.mlp.shared_experts.up_proj.weight", tensor).shape == (3, 4)


def test_dealt_experts_are_numbered_within_their_rank() -> None:
    config, ids = tiny_config("lite"), torch.tensor([[0, 7, 8, 15]])
    assert Split(1, 2, experts="dealt").own_experts(ids, config).tolist() == [[-1, -1, 0, 7]]
    assert Split(1, 2, experts="cut").own_experts(ids, config) is ids


def test_what_cannot_be_cut_is_named() -> None:
    with pytest.raises(Unsupported, match="heads of 4 cannot be cut for 3 ranks"):
        Split(0, 3).local(tiny_config())


def test_one_rank_is_the_whole_model() -> None:
    with torch.device("meta"):
        alone = Transformer(tiny_config())
    assert alone.team.split.size == 1
    assert alone.lm_head.shape[0] == 600
