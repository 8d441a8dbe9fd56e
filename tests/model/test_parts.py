"""Ranks of one model from files of quants: each has its part of every weight, number for number."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from torch import Tensor

from coderv2.errors import Unsupported
from coderv2.kernels.formats import Weight
from coderv2.kernels.packing import pack, unpack
from coderv2.model import weights
from coderv2.model.convert import pack_folder, quantise_folder
from coderv2.model.loading import grain, open_model
from coderv2.model.parallel import Split, Team
from coderv2.model.transformer import Transformer
from tests.model.gguf_files import needs_kernels, write_gguf
from tests.tiny import tiny_config, tiny_model

# Rows and heads of whole blocks, and widths that equal parts would cut within one.
SIZES = {
    "hidden_size": 256, "moe_intermediate_size": 672, "intermediate_size": 1120, "kv_lora_rank": 256,
    "v_head_dim": 128, "qk_nope_head_dim": 64, "qk_rope_head_dim": 16,
    "vocab_size": 640, "num_hidden_layers": 2, "n_routed_experts": 8,
}  # fmt: skip


def _stored(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, parameter.detach()) for name, parameter in model.named_parameters())
    for stem, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Weight):
                yield f"{stem}.{name}".removeprefix("."), unpack(value)


def _check_parts(
    path: Path,
    size: int,
    experts: Literal["cut", "dealt"],
    dtype: torch.dtype | None,
    attention: Literal["heads", "tokens"] = "heads",
) -> None:
    whole = dict(_stored(open_model(path, dtype=dtype)))
    cut = 0
    for rank in range(size):
        split = Split(rank, size, experts, attention, grain(path))
        model = open_model(path, dtype=dtype, team=Team(split))
        part = dict(_stored(model))
        assert part.keys() == whole.keys()
        for stack in (layer.self_attn.key_up for layer in model.layers if layer.self_attn.key_up):
            assert stack.shape[0] == split.local(model.config).num_attention_heads
        for name, tensor in part.items():
            wanted = whole[name][tuple(slice(r.start, r.stop) for r in split.ranges(name, whole[name].shape))]
            assert torch.equal(tensor, wanted), name
            cut += tensor.numel() * (tensor.shape != whole[name].shape)
    # All that is cut is there once over all ranks.
    assert cut == sum(w.numel() for name, w in whole.items() if w.shape != part[name].shape)


@needs_kernels
@pytest.mark.parametrize("experts", ["cut", "dealt"])
@pytest.mark.parametrize("dtype", [None, torch.float32], ids=["packed", "plain"])
@pytest.mark.parametrize("kind", [Type.F32, Type.BF16, Type.Q8_0, Type.Q4_0], ids=lambda t: t.name)
@pytest.mark.parametrize("old", [False, True], ids=["k_b and v_b", "kv_b"])
def test_parts_of_a_gguf_file(
    tmp_path: Path, kind: Type, experts: Literal["cut", "dealt"], dtype: torch.dtype | None, old: bool
) -> None:
    path = write_gguf(tmp_path / "x.gguf", tiny_model(tiny_config(**SIZES)), kind=kind, old=old)
    _check_parts(path, 2, experts, dtype)


@needs_kernels
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("dtype", [None, torch.float32], ids=["packed", "plain"])
@pytest.mark.parametrize("family", ["lite", "full"])
@pytest.mark.parametrize("stored", ["as they are", "int8", "int4"])
def test_parts_of_a_packed_folder(
    tmp_path: Path, stored: str, family: str, dtype: torch.dtype | None, size: int
) -> None:
    sizes = SIZES | {"n_routed_experts": 8 if family == "lite" else 40}
    weights.save(tiny_model(tiny_config(family, **sizes)), tmp_path / "wide")
    if stored == "as they are":
        pack_folder(tmp_path / "wide", tmp_path / "packed")
    else:
        quantise_folder(tmp_path / "wide", tmp_path / "packed", stored, None)
    if stored == "int4" and size == 4:
        with pytest.raises(Unsupported, match=r"of 672 cannot be cut for 4 ranks.* 3 times 256"):
            _check_parts(tmp_path / "packed", size, "cut", dtype)
        return
    _check_parts(tmp_path / "packed", size, "cut", dtype)


@needs_kernels
@pytest.mark.parametrize("experts", ["cut", "dealt"])
@pytest.mark.parametrize("kind", ["new.gguf", "old.gguf", "packed"])
def test_ranks_with_tokens_of_their_own_have_all_heads(
    tmp_path: Path, kind: str, experts: Literal["cut", "dealt"]
) -> None:
    """Of packed folders and new GGUF files they had their share of keys and values, and all of the queries."""
    model = tiny_model(tiny_config(**SIZES))
    if kind == "packed":
        weights.save(model, tmp_path / "wide")
        pack_folder(tmp_path / "wide", tmp_path / kind)
    else:
        write_gguf(tmp_path / kind, model, kind=Type.Q8_0, old=kind == "old.gguf")
    _check_parts(tmp_path / kind, 2, experts, None, "tokens")


def test_widths_are_cut_at_grains_and_nothing_is_left_out() -> None:
    parts = [Split(rank, 4, grain=256).columns(1408, "width") for rank in range(4)]
    assert [len(part) for part in parts] == [256, 512, 256, 384]
    assert [part.start for part in parts] == [0, 256, 768, 1024]


@needs_kernels
def test_what_does_not_come_apart_is_named(tmp_path: Path) -> None:
    """Heads end where they end, whatever lies together: two of 24 columns are no blocks of 32."""
    sizes = SIZES | {"v_head_dim": 24, "hidden_size": 96}
    path = write_gguf(tmp_path / "x.gguf", tiny_model(tiny_config(**sizes)), kind=Type.Q8_0)
    with pytest.raises(Unsupported, match=r"attn_output.* in Q8_0: 0 to 48 of 96 .*32 lie together.*fewer"):
        open_model(path, team=Team(Split(0, 2, grain=grain(path))))


def test_rows_that_lie_together_stay_so() -> None:
    weight = pack(torch.randn(40, 64), "f32")
    assert torch.equal(unpack(weight.part([range(16, 40), range(32, 64)])), unpack(weight)[16:, 32:])
    with pytest.raises(ValueError, match="0 to 20 of 40 cannot be taken out: 16 lie together"):
        weight.part([range(20), range(64)])
