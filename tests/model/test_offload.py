"""Models with experts in two places: the logits of one place, whatever they are opened from."""

from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from torch import Tensor

from coderv2.errors import Unsupported
from coderv2.kernels.formats import Weight
from coderv2.model import usage
from coderv2.model.convert import pack_folder, quantise_folder
from coderv2.model.loading import open_model
from coderv2.model.moe import Experts
from coderv2.model.placement import chosen
from coderv2.model.published import published_tensors
from coderv2.model.weights import load, update
from tests.model.gguf_files import needs_kernels, write_gguf
from tests.ranks import PROMPTS, logits
from tests.tiny import tiny_config, tiny_model

COUNTS = [0, 1, 7, 20]


def _near(wanted: Tensor, found: Tensor, bound: float = 1e-4) -> None:
    assert (found - wanted).norm() / wanted.norm() < bound


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("family", ["tiny_checkpoint", "tiny_full_checkpoint"])
def test_logits_are_those_of_one_place(family: str, count: int, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(family)
    one = load(folder, dtype=torch.float32)
    counts = usage.count(one, PROMPTS)
    split = open_model(folder, dtype=torch.float32, placement=chosen(one.config, count, counts))
    stacks = [m for m in split.modules() if isinstance(m, Experts)]
    assert sum(m.gate_proj.shape[0] for m in stacks) == count
    torch.testing.assert_close(logits(split, PROMPTS), logits(one, PROMPTS), rtol=0, atol=1e-4)
    assert not split.packed
    assert not split.recordable


def test_a_placement_of_everything_is_an_ordinary_model(tiny_checkpoint: Path) -> None:
    one = load(tiny_checkpoint, dtype=torch.float32)
    whole = open_model(tiny_checkpoint, dtype=torch.float32, placement=chosen(one.config, 32))
    assert whole.plain
    assert whole.recordable
    assert torch.equal(logits(whole, PROMPTS), logits(one, PROMPTS))


@pytest.mark.parametrize("count", [0, 7])
def test_a_packed_folder_keeps_its_bits_in_ram(count: int, tiny_checkpoint: Path, tmp_path: Path) -> None:
    pack_folder(tiny_checkpoint, tmp_path)
    _check_quants(tmp_path, count, {"f32"}, 1e-5)


@needs_kernels
@pytest.mark.parametrize("count", [0, 7])
def test_quantised_experts_stay_quantised_in_ram(count: int, tiny_checkpoint: Path, tmp_path: Path) -> None:
    quantise_folder(tiny_checkpoint, tmp_path, "int8", None)
    _check_quants(tmp_path, count, {"int8"}, 0.08)


@needs_kernels
def test_a_gguf_file_keeps_its_quants_in_ram(tmp_path: Path) -> None:
    model = tiny_model(tiny_config(moe_intermediate_size=32, intermediate_size=128))
    _check_quants(write_gguf(tmp_path / "tiny.gguf", model, kind=Type.Q8_0), 7, {"int8"}, 0.08)


def _check_quants(path: Path, count: int, formats: set[str], bound: float) -> None:
    one = open_model(path)
    split = open_model(path, dtype=torch.float32, placement=chosen(one.config, count))
    assert {weight.format.name for weight in split.weights()} == formats
    assert all(not isinstance(value, Weight) for value in vars(split.layers[1].self_attn).values())
    _near(logits(one, PROMPTS), logits(split, PROMPTS), bound)


def test_experts_rounded_for_ram_are_near(tiny_checkpoint: Path) -> None:
    one = load(tiny_checkpoint, dtype=torch.bfloat16)
    split = open_model(tiny_checkpoint, dtype=torch.bfloat16, placement=chosen(one.config, 5))
    assert {weight.format.name for weight in split.weights()} == {"bf16"}
    _near(logits(one, PROMPTS), logits(split, PROMPTS), 3e-2)


def test_choices_are_counted_while_it_runs(tiny_checkpoint: Path) -> None:
    one = load(tiny_checkpoint, dtype=torch.float32)
    split = open_model(tiny_checkpoint, dtype=torch.float32, placement=chosen(one.config, 7))
    for model in (one, split):
        usage.watch(model)
        logits(model, PROMPTS)
    assert usage.counted(split) == usage.counted(one)


def test_its_weights_cannot_be_changed_in_place(tiny_checkpoint: Path) -> None:
    one = load(tiny_checkpoint, dtype=torch.float32)
    split = open_model(tiny_checkpoint, dtype=torch.float32, placement=chosen(one.config, 7))
    with pytest.raises(Unsupported, match="partly in RAM"):
        update(split, dict(published_tensors(one)))
