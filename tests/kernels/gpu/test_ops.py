"""Whole models through the GPU's operations, beside the plain ones: prompt, chunk over a cached prefix, decode."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.kernels.gpu.place import DEVICE, close
from coderv2.kernels.gpu.ops import GpuOps
from coderv2.kernels.ops import Ops, pick
from coderv2.kernels.scaled import Kind, Scaled, restore
from coderv2.model.attention import crossing
from coderv2.model.batch import Batch
from coderv2.model.cache import LatentCache
from coderv2.model.loading import open_model
from coderv2.model.placement import chosen
from coderv2.model.scale import place_scaled
from coderv2.model.transformer import Transformer
from coderv2.model.weights import load, save
from tests.model.fp8_files import fp8_folder
from tests.tiny import tiny_config, tiny_model


def _logits(model: Transformer, ops: type[Ops], cache_dtype: torch.dtype) -> torch.Tensor:
    """After a prompt of 34 tokens, a chunk of 33 more, and one step of it beside another sequence.

    The first two are more than the crossing's 32, so they take the expanded form.
    """
    cache = LatentCache(model.config, 8, 16, cache_dtype, DEVICE)
    ids = [(7 * i) % 500 + 3 for i in range(80)]
    tables = [[3, 1, 4, 0, 5], [7, 2]]
    steps = [([ids[:34]], [0], 1), ([ids[34:67]], [34], 1), ([ids[67:68], ids[:3]], [67, 0], 2)]
    assert crossing(model.config) == 32
    found = []
    for new, contexts, count in steps:
        batch = Batch.cached(cache, new, contexts, tables[:count])
        found.append(model(replace(batch, computed_by=ops)))
    return torch.cat(found)


@torch.inference_mode()
@pytest.mark.parametrize("family", ["lite", pytest.param("full", marks=pytest.mark.slow)])
def test_a_model_gives_the_plain_logits(family: str) -> None:
    # Few layers, since the interpreter is slow.
    model = tiny_model(tiny_config(family, num_hidden_layers=2)).to(DEVICE)
    close(_logits(model, GpuOps, torch.float32), _logits(model, Ops, torch.float32), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_cache_in_fp8_stays_near() -> None:
    model = tiny_model(tiny_config("lite", num_hidden_layers=1, first_k_dense_replace=1)).to(DEVICE)
    exact, rough = (_logits(model, GpuOps, dtype) for dtype in (torch.float32, torch.float8_e4m3fn))
    assert 0 < (exact - rough).abs().max() < 0.2 * exact.abs().max()


@torch.inference_mode()
def test_int4_weights_give_the_logits_of_what_they_stand_for() -> None:
    config = tiny_config(num_hidden_layers=2, moe_intermediate_size=64, intermediate_size=128)
    plain, rounded = tiny_model(config).to(DEVICE), tiny_model(config).to(DEVICE)
    for (_, ours), (_, theirs) in zip(rounded.named_modules(), plain.named_modules(), strict=True):
        for name, parameter in list(ours.named_parameters(recurse=False)):
            place_scaled(ours, name, parameter.detach(), "int4")
            if isinstance(value := getattr(ours, name), Scaled):
                theirs.get_parameter(name).copy_(restore(value))
    wanted = _logits(plain, Ops, torch.float32)
    close(_logits(rounded, GpuOps, torch.float32), wanted, rtol=1e-3, atol=1e-3)


@torch.inference_mode()
@pytest.mark.parametrize("count", [0, 9])
def test_with_experts_in_ram_the_logits_are_the_same(count: int, tmp_path: Path) -> None:
    config = tiny_config("lite", num_hidden_layers=2)
    save(tiny_model(config), tmp_path)
    split = open_model(tmp_path, dtype=torch.float32, device=DEVICE, placement=chosen(config, count))
    wanted = _logits(tiny_model(config).to(DEVICE), Ops, torch.float32)
    close(_logits(split, GpuOps, torch.float32), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize("kind", ["int4", "fp8"])
def test_few_bits_on_the_gpu_go_with_as_few_in_ram(kind: Kind, tmp_path: Path) -> None:
    config = tiny_config(num_hidden_layers=2, moe_intermediate_size=64, intermediate_size=128)
    save(tiny_model(config), tmp_path)
    split = open_model(tmp_path, dtype=torch.float32, device=DEVICE, scaled=kind, placement=chosen(config, 9))
    assert {weight.format.name for weight in split.weights()} == {kind}
    wanted, found = (
        _logits(model, GpuOps, torch.float32) for model in (tiny_model(config).to(DEVICE), split)
    )
    assert 0 < (found - wanted).norm() < 0.3 * wanted.norm()


@torch.inference_mode()
@pytest.mark.parametrize(
    ("layout", "count"),
    [
        ("block", 8),
        ("row", 3),
        pytest.param("block", 3, marks=pytest.mark.slow),
        pytest.param("row", 8, marks=pytest.mark.slow),
        pytest.param("tensor", 3, marks=pytest.mark.slow),
        pytest.param("tensor", 8, marks=pytest.mark.slow),
    ],
)
def test_experts_of_an_fp8_checkpoint_stay_so_in_both_places(layout: str, count: int, tmp_path: Path) -> None:
    widths = {"hidden_size": 160, "moe_intermediate_size": 144, "num_hidden_layers": 2}
    fp8_folder(tmp_path / "fp8", layout, **widths, n_routed_experts=8, torch_dtype="bfloat16")
    plain = load(tmp_path / "fp8", dtype=torch.float32)
    split = open_model(tmp_path / "fp8", device=DEVICE, placement=chosen(plain.config, count))
    assert isinstance(split.layers[1].mlp.experts.gate_proj, Scaled)
    wanted, found = _logits(plain, Ops, torch.float32), _logits(split, GpuOps, torch.bfloat16)
    assert 0 < (found - wanted).norm() < 0.02 * wanted.norm()


def test_who_computes() -> None:
    with torch.inference_mode():
        assert pick(deterministic=False, device=torch.device("cpu")) is Ops
        assert pick(deterministic=False, device=torch.device("cuda")) is GpuOps
    # Gradients only the plain operations have.
    assert pick(deterministic=False, device=torch.device("cuda")) is Ops
