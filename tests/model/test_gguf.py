"""Files of tiny models that the `gguf` package wrote: the same logits as the checkpoint's."""

import logging
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Type

from coderv2.errors import BadCheckpoint, Unsupported
from coderv2.model import gguf, weights
from coderv2.model.batch import Batch
from coderv2.model.transformer import Transformer
from tests.model.gguf_files import needs_kernels, write_gguf
from tests.parity import relative_error, sample_ids
from tests.tiny import tiny_config, tiny_model

GROUPS = {"expert_group_count": 8, "expert_group_used_count": 3}
# Rows of whole blocks; and every expert takes part, since a rounding may tip a router over.
WIDE = {"hidden_size": 256, "moe_intermediate_size": 256, "intermediate_size": 256, "kv_lora_rank": 256}
ALL = {"n_routed_experts": 6, "num_experts_per_tok": 6}


def _logits(model: Transformer) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(Batch.packed([sample_ids(70)]))
    return logits


@pytest.mark.parametrize("old", [False, True], ids=["k_b and v_b", "kv_b"])
@pytest.mark.parametrize("family", ["lite", "full"])
def test_float32_file_gives_the_checkpoints_logits(tmp_path: Path, family: str, old: bool) -> None:
    model = tiny_model(tiny_config(family))
    keys = GROUPS if family == "full" and old else {}  # files so old have no groups; see below
    path = write_gguf(tmp_path / "x.gguf", model, old=old, overrides=keys)
    expected = _logits(model)
    assert torch.equal(_logits(gguf.load(path, dtype=torch.float32)), expected)
    assert relative_error(_logits(gguf.load(path)), expected) < 2e-6


@needs_kernels
@pytest.mark.parametrize("old", [False, True], ids=["k_b and v_b", "kv_b"])
@pytest.mark.parametrize("kind", [Type.BF16, Type.F16, Type.Q8_0, Type.Q5_1, Type.Q4_0], ids=lambda t: t.name)
def test_quantised_file_gives_the_logits_of_its_own_numbers(tmp_path: Path, kind: Type, old: bool) -> None:
    """What the file holds, written out in float32 and put into a checkpoint, is the reference."""
    model = tiny_model(tiny_config(**WIDE, **ALL))
    path = write_gguf(tmp_path / "x.gguf", model, old=old, kind=kind)
    plain = gguf.load(path, dtype=torch.float32)
    weights.save(plain, tmp_path / "folder")
    expected = _logits(weights.load(tmp_path / "folder"))
    assert torch.equal(_logits(plain), expected)
    assert relative_error(expected, _logits(model)) > 1e-5
    # Products with bfloat16 and with quants round activations as well, which this steep model magnifies.
    bound = {Type.F16: 1e-5, Type.BF16: 0.02}.get(kind, 0.08)
    assert relative_error(_logits(gguf.load(path)), expected) < bound


def test_old_files_of_the_236b_model_route_by_its_groups(tmp_path: Path) -> None:
    model = tiny_model(tiny_config("full", n_routed_experts=160, num_hidden_layers=2))
    path = write_gguf(tmp_path / "x.gguf", model, old=True)
    config = gguf.read_config(path)
    assert (config.topk_method, config.n_group, config.topk_group) == ("group_limited_greedy", 8, 3)
    assert torch.equal(_logits(gguf.load(path, dtype=torch.float32)), _logits(model))


def test_the_config_comes_back(tmp_path: Path) -> None:
    for family in ("lite", "full"):
        config = tiny_config(family)
        read = gguf.read_config(write_gguf(tmp_path / f"{family}.gguf", tiny_model(config)))
        for key in vars(config).keys() - {"extra", "rms_norm_eps", "torch_dtype"}:
            assert getattr(read, key) == getattr(config, key), key
        assert read.rms_norm_eps == pytest.approx(config.rms_norm_eps)


def test_a_file_without_output_uses_the_embedding(tmp_path: Path) -> None:
    model = tiny_model(tiny_config())
    model.lm_head.data.copy_(model.embed_tokens)
    path = write_gguf(tmp_path / "x.gguf", model, leave_out="output.weight")
    assert torch.equal(_logits(gguf.load(path, dtype=torch.float32)), _logits(model))


@needs_kernels
def test_types_without_a_kernel_are_named_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model(tiny_config(**WIDE))
    with caplog.at_level(logging.INFO, "coderv2"):
        gguf.load(write_gguf(tmp_path / "a.gguf", model, kind=Type.F16))
        gguf.load(write_gguf(tmp_path / "b.gguf", model, kind=Type.Q8_0))
    assert [record.message for record in caplog.records] == [
        f"{tmp_path}/a.gguf: held in wider formats, nothing is lost: F16 as f32"
    ]


def test_float16_is_refused_as_for_checkpoints(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", tiny_model(tiny_config()))
    with pytest.raises(Unsupported, match="float16"):
        gguf.load(path, dtype=torch.float16)


def test_parts_are_one_model(tmp_path: Path) -> None:
    model = tiny_model(tiny_config())
    first = write_gguf(tmp_path / "x.gguf", model, tensors_per_part=9)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert len(parts) > 3
    for part in (first, parts[2]):  # any of them names them all
        assert torch.equal(_logits(gguf.load(part, dtype=torch.float32)), _logits(model))


def test_missing_renamed_and_swapped_parts_are_named(tmp_path: Path) -> None:
    first = write_gguf(tmp_path / "x.gguf", tiny_model(tiny_config()), tensors_per_part=9)
    parts = sorted(tmp_path.glob("*.gguf"))
    alone = tmp_path / "alone.gguf"
    alone.write_bytes(first.read_bytes())
    with pytest.raises(BadCheckpoint, match=rf"alone\.gguf: one of {len(parts)} parts"):
        gguf.load(alone)
    second, third = parts[1].read_bytes(), parts[2].read_bytes()
    parts[1].write_bytes(third)
    parts[2].write_bytes(second)
    with pytest.raises(BadCheckpoint, match=r"named as part 2, but it is part 2 \+ 1"):
        gguf.load(first)
    parts[1].unlink()
    with pytest.raises(BadCheckpoint, match=parts[1].name):
        gguf.load(first)


def test_a_tensor_in_two_parts_is_refused(tmp_path: Path) -> None:
    first = write_gguf(tmp_path / "x.gguf", tiny_model(tiny_config()), tensors_per_part=9)
    parts = sorted(tmp_path.glob("*.gguf"))
    raw = bytearray(parts[1].read_bytes())
    raw[raw.index(b"split.no") + 8 + 4] = 2  # the same part once more, said to be another
    parts[2].write_bytes(raw)
    with pytest.raises(BadCheckpoint, match="in two of its parts"):
        gguf.load(first)


def test_tensors_of_no_known_use_are_refused_and_not_left_out(tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "x.gguf", tiny_model(tiny_config()), extra={"blk.1.exp_probs_b.bias": torch.zeros(16)}
    )
    with pytest.raises(BadCheckpoint, match=r"blk\.1\.exp_probs_b\.bias is not a tensor of this model"):
        gguf.load(path)


@needs_kernels
@pytest.mark.parametrize("number", [b"\x80\x7f", b"\xc0\x7f", b"\x80\xff"], ids=["inf", "NaN", "-inf"])
@pytest.mark.parametrize("kind", [Type.F32, Type.BF16, Type.Q8_0], ids=lambda t: t.name)
def test_nan_and_infinity_are_refused(tmp_path: Path, kind: Type, number: bytes) -> None:
    path = write_gguf(tmp_path / "x.gguf", tiny_model(tiny_config(**WIDE)), kind=kind)
    raw = bytearray(path.read_bytes())
    # The last number's upper half, or the last block's scale.
    end = len(raw) - (32 if kind == Type.Q8_0 else 0)
    raw[end - 2 : end] = number
    path.write_bytes(raw)
    with pytest.raises(BadCheckpoint, match=r"blk\.2\.\S+ holds NaN or infinite"):
        gguf.load(path)
