"""FP8 checkpoints in the published layouts: the numbers are codes times scales, exactly, and the codes stay codes."""

import json
from collections import deque
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from coderv2.engine.offload import Wish
from coderv2.errors import BadCheckpoint, Unsupported
from coderv2.kernels.formats import Weight
from coderv2.kernels.packing import unpack
from coderv2.kernels.scaled import Scaled, restore
from coderv2.model import weights
from coderv2.model.batch import Batch
from coderv2.model.checkpoint import SINGLE
from coderv2.model.loading import grain, open_config, open_model
from coderv2.model.offload import move
from coderv2.model.parallel import Split, Team
from coderv2.model.placement import Placement, chosen
from coderv2.model.published import parts, published_tensors
from coderv2.model.transformer import Transformer
from tests.model.fp8_files import LAYOUTS, fp8_folder
from tests.parity import relative_error, sample_ids


@pytest.mark.parametrize("layout", LAYOUTS)
def test_written_out_the_numbers_are_codes_times_scales(layout: str, tmp_path: Path) -> None:
    exact = fp8_folder(tmp_path / "fp8", layout)
    model = weights.load(tmp_path / "fp8", dtype=torch.float32)
    for name, tensor in published_tensors(model):
        assert torch.equal(tensor, exact[name].float()), name
    assert "quantization_config" not in model.config.to_dict()


@pytest.mark.parametrize("deal", ["cut", "dealt"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_rank_has_its_part_of_codes_times_scales(layout: str, deal: Any, tmp_path: Path) -> None:
    """Written out, in kernel order, and as a device multiplies them: the same numbers."""
    exact = fp8_folder(tmp_path / "fp8", layout)
    for rank in range(2):
        split = Split(rank, 2, deal, grain=grain(tmp_path / "fp8"))
        model, packed, stored = (
            weights.load(tmp_path / "fp8", team=Team(split), **how)
            for how in ({"dtype": torch.float32}, {"packed": True}, {"stored": True})
        )
        first = split.first_expert(model.config)
        for ours, parameter in model.named_parameters():
            for name, tensor in parts(ours, parameter, first):
                assert torch.equal(tensor, split.part(name, exact[name].float())), name
        kept = _matrices(stored, Scaled)
        assert len(kept) == 2 * 3 + 3 * 3  # two attentions; a dense layer, routed and shared experts
        for name, value in kept.items():
            assert torch.equal(restore(value), model.get_parameter(name)), name
        for name, weight in _matrices(packed, Weight).items():
            if name in kept:
                assert weight.format.name == "fp8"
                assert torch.equal(unpack(weight), model.get_parameter(name)), name


def test_fp8_that_is_asked_for_takes_the_scales_of_activations_from_the_file(tmp_path: Path) -> None:
    """Per-tensor static checkpoints; what one call multiplies is divided by the largest of its matrices' scales."""
    fp8_folder(tmp_path / "fp8", "tensor")
    large = {
        "model.layers.1.mlp.experts.5.up_proj.input_scale": 0.75,
        "model.layers.1.mlp.shared_experts.down_proj.input_scale": 2.0,
    }
    _changed(tmp_path / "fp8", lambda t: t.update({name: torch.tensor(x) for name, x in large.items()}))
    model = weights.load(tmp_path / "fp8", stored=True, scaled="fp8")
    found = {name: float(weight.input_scale) for name, weight in _matrices(model, Scaled).items()}
    assert len(found) == 2 * 3 + 3 * 3
    for name, scale in found.items():
        assert scale == (0.5 if ".layers.1.mlp." not in f".{name}" else 2.0 if "down" in name else 0.75), name
    mlp = model.layers[1].mlp
    assert mlp.experts.gate_proj.input_scale is mlp.shared_experts.up_proj.input_scale
    batch, plain = Batch.packed([sample_ids(40)]), weights.load(tmp_path / "fp8", dtype=torch.float32)
    assert {weight.kind for weight in _matrices(model, Scaled).values()} == {"fp8"}
    with torch.inference_mode():
        assert 0 < relative_error(model(batch).float(), plain(batch)) < 0.2
    _changed(tmp_path / "fp8", lambda t: t.pop("model.layers.1.mlp.experts.5.up_proj.input_scale"))
    measured = weights.load(tmp_path / "fp8", stored=True, scaled="fp8").layers[1].mlp.experts
    assert measured.gate_proj.input_scale is None
    assert measured.down_proj.input_scale is not None
    _changed(tmp_path / "fp8", lambda t: t.update({DOWN + "input_scale": torch.zeros(1)}))
    with pytest.raises(BadCheckpoint, match=r"experts\.3\.down_proj\.input_scale is not one number above 0"):
        weights.load(tmp_path / "fp8", stored=True, scaled="fp8")


def _matrices(model: Transformer, kind: type) -> dict[str, Any]:
    return {
        f"{stem}.{name}": value
        for stem, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, kind)
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_run_on_the_cpu_the_codes_stay_codes(layout: str, tmp_path: Path) -> None:
    exact = fp8_folder(tmp_path / "fp8", layout)
    model = weights.load(tmp_path / "fp8", packed=True)
    attention, experts = model.layers[1].self_attn, model.layers[1].mlp.experts
    assert (
        experts.gate_proj.format.name == attention.o_proj.format.name == attention.key_up.format.name == "fp8"
    )
    assert model.layers[1].mlp.gate.format.name == "f32"
    stacked = torch.stack([exact[f"model.layers.1.mlp.experts.{e}.down_proj.weight"] for e in range(8)])
    assert torch.equal(unpack(experts.down_proj), stacked)
    key_HNC = exact["model.layers.1.self_attn.kv_b_proj.weight"].unflatten(0, (2, 256))[:, :128]
    assert torch.equal(unpack(attention.key_up), key_HNC)
    # Turned, a head's rows must share their scales for that to be exact: blocks of 128 and whole tensors do.
    assert attention.key_absorb.format.name == ("bf16" if layout == "row" else "fp8")
    torch.testing.assert_close(unpack(attention.key_absorb), key_HNC.transpose(1, 2), rtol=2**-8, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_packed_and_plain_give_the_same_logits(layout: str, tmp_path: Path) -> None:
    fp8_folder(tmp_path / "fp8", layout)
    batch = Batch.packed([sample_ids(40)])
    with torch.inference_mode():
        plain = weights.load(tmp_path / "fp8", dtype=torch.float32)(batch)
        packed = open_model(tmp_path / "fp8")(batch)
    assert relative_error(packed, plain) < 0.02


@pytest.mark.parametrize("count", [0, 3, 7])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_experts_in_ram_keep_their_codes(layout: str, count: int, tmp_path: Path) -> None:
    """Both on a device and beside it the codes stay codes, byte for byte as they were planned."""
    exact = fp8_folder(tmp_path / "fp8", layout)
    plain = weights.load(tmp_path / "fp8", dtype=torch.float32)
    placement = chosen(plain.config, count)
    split = open_model(tmp_path / "fp8", placement=placement)
    experts = split.layers[1].mlp.experts
    near, far = list(placement.near[1]), list(placement.far(1))
    assert {weight.format.name for weight in split.weights()} == {"fp8"}
    for name in ("gate_proj", "up_proj", "down_proj"):
        stack = torch.stack([exact[f"model.layers.1.mlp.experts.{e}.{name}.weight"] for e in range(8)])
        assert torch.equal(unpack(getattr(experts.in_ram, name)), stack[far])
        assert torch.equal(_numbers(getattr(experts, name)), stack[near])
    sizes = Wish(tmp_path / "fp8").sizes(open_config(tmp_path / "fp8"))
    assert sum(weight.data.nbytes for weight in split.weights()) == len(far) * sizes.far
    assert sum(stack.nbytes for stack in experts.weights()) == len(near) * sizes.near
    batch = Batch.packed([sample_ids(40)])
    with torch.inference_mode():
        assert relative_error(split(batch), plain(batch)) < 0.02


def _numbers(stack: Tensor | Scaled) -> Tensor:
    return restore(stack) if isinstance(stack, Scaled) else stack


def test_a_checkpoint_of_both_kinds_of_experts_is_written_out_on_the_device(tmp_path: Path) -> None:
    exact = fp8_folder(tmp_path / "fp8", "block")
    one = "model.layers.1.mlp.experts.7.up_proj.weight"

    def widen(tensors: dict[str, Tensor]) -> None:
        tensors[one] = exact[one].bfloat16()
        del tensors[one + "_scale_inv"]

    _changed(tmp_path / "fp8", widen)
    split = open_model(tmp_path / "fp8", placement=Placement({1: (0, 7)}, 8))
    for stack in split.layers[1].mlp.experts.weights():
        assert isinstance(stack, Tensor)
        assert stack.dtype == torch.bfloat16
    assert Wish(tmp_path / "fp8").sizes(open_config(tmp_path / "fp8")).near == 2 * 3 * 160 * 144


def test_a_scale_that_makes_infinite_weights_is_damage(tmp_path: Path) -> None:
    """Codes and scales are finite, their products were not."""
    fp8_folder(tmp_path / "fp8", "block")
    one = "model.layers.1.self_attn.o_proj.weight_scale_inv"
    _changed(tmp_path / "fp8", lambda tensors: tensors[one].fill_(1e38))
    with pytest.raises(BadCheckpoint, match=r"o_proj\.weight with its scales is not finite"):
        weights.load(tmp_path / "fp8", dtype=torch.float32)


def test_a_block_that_is_one_number_is_refused_by_name(tmp_path: Path) -> None:
    """It was a TypeError."""
    fp8_folder(tmp_path / "fp8", "block")
    path = tmp_path / "fp8/config.json"
    config = json.loads(path.read_text())
    config["quantization_config"]["weight_block_size"] = 128
    path.write_text(json.dumps(config))
    with pytest.raises(Unsupported, match="FP8 scales for blocks of 128"):
        weights.load(tmp_path / "fp8")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_codes_move_to_the_device_as_they_would_have_been_loaded_there(layout: str, tmp_path: Path) -> None:
    fp8_folder(tmp_path / "fp8", layout)
    moved, there = (
        open_model(tmp_path / "fp8", placement=Placement({1: near}, 8, all_in_ram=True)).layers[1].mlp.experts
        for near in ((0, 1, 2), (0, 6, 2))
    )
    deque(move(moved, 6, 1))
    for name in ("gate_proj", "up_proj", "down_proj"):
        assert torch.equal(
            getattr(moved, name).codes.view(torch.uint8), getattr(there, name).codes.view(torch.uint8)
        )
        assert torch.equal(getattr(moved, name).scales, getattr(there, name).scales)
    assert torch.equal(moved.in_ram.near_E, there.in_ram.near_E)
    assert torch.equal(moved.in_ram.far_E, there.in_ram.far_E)


def _changed(folder: Path, change: Any) -> None:
    tensors = load_file(folder / SINGLE)
    change(tensors)
    save_file(tensors, folder / SINGLE)


DOWN = "model.layers.1.mlp.experts.3.down_proj."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(DOWN + "weight_scale_inv"), "needs one of"),
        (lambda t: t.update({DOWN + "weight_scale_inv": torch.ones(3, 3)}), r"call for \[2, 2\]"),
        (lambda t: t.update({DOWN + "weight_scale": torch.ones(1)}), "needs one of"),
        (lambda t: t.update({DOWN + "weight_scale_inv": torch.full((2, 2), torch.nan)}), "NaN"),
        (lambda t: t[DOWN + "weight"].view(torch.uint8).fill_(0x7F), "NaN"),
        (lambda t: t.update({"model.norm.weight_scale": torch.ones(1)}), "not a tensor of this model"),
    ],
)
def test_scales_that_do_not_fit_are_named(change: Any, message: str, tmp_path: Path) -> None:
    fp8_folder(tmp_path / "fp8", "block")
    _changed(tmp_path / "fp8", change)
    for packed in (False, True):
        with pytest.raises(BadCheckpoint, match=message):
            weights.load(tmp_path / "fp8", packed=packed)


@pytest.mark.parametrize(
    "found", [{"quant_method": "gptq", "bits": 4}, {"quant_method": "fp8", "weight_block_size": [64, 64]}]
)
def test_other_quantisations_are_refused_by_name(found: dict[str, Any], tmp_path: Path) -> None:
    fp8_folder(tmp_path / "fp8", "block")
    path = tmp_path / "fp8" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"quantization_config": found}), "utf-8")
    with pytest.raises(Unsupported, match=r"gptq|64"):
        weights.load(tmp_path / "fp8")
