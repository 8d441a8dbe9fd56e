"""Checkpoints out as GGUF files: read by the `gguf` package and by us."""

import json
import subprocess
import sys
from pathlib import Path

import gguf as package
import pytest
import torch

from coderv2.errors import BadCheckpoint, Unsupported
from coderv2.kernels import cpu
from coderv2.kernels.ggml_encode import encode
from coderv2.model import gguf, weights
from coderv2.model.batch import Batch
from coderv2.model.gguf_export import export
from coderv2.model.gguf_names import tensor_name
from coderv2.model.gguf_types import FILE_TYPES
from coderv2.paths import bundled_model
from coderv2.text.chat import CHAT_TEMPLATE
from coderv2.text.tokenizer import Tokenizer
from tests.parity import relative_error
from tests.tiny import tiny_config, tiny_model
from tests.tiny_tokenizer import tiny_tokenizer_folder

needs_kernels = pytest.mark.skipif(cpu.kernels is None, reason="quants are unpacked by the CPU kernels")


def _field(reader: package.GGUFReader, key: str) -> object:
    return reader.fields[key].contents()


@pytest.mark.parametrize("checkpoint", ["tiny_checkpoint", "tiny_full_checkpoint"])
def test_float32_export_comes_back_bit_for_bit(
    checkpoint: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder, path = request.getfixturevalue(checkpoint), tmp_path / "x.gguf"
    export(folder, path, FILE_TYPES["f32"], name="x")
    before, after = weights.load(folder), gguf.load(path, dtype=torch.float32)
    for (name, a), (other, b) in zip(before.named_parameters(), after.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(a, b), name
    config = gguf.read_config(path)
    for key in (
        "topk_method",
        "n_group",
        "topk_group",
        "routed_scaling_factor",
        "rope_scaling",
        "q_lora_rank",
    ):
        assert getattr(config, key) == getattr(before.config, key)
    assert not list(tmp_path.glob("*.part"))


def test_groups_that_a_greedy_router_does_not_ask_for_are_not_written(tmp_path: Path) -> None:
    """Its file came back as one that chooses within groups."""
    config = tiny_config(n_group=8, topk_group=3, n_routed_experts=16)
    folder, path = tiny_tokenizer_folder(tmp_path / "x"), tmp_path / "x.gguf"
    weights.save(tiny_model(config), folder)
    export(folder, path, FILE_TYPES["f32"], name="x")
    found = gguf.read_config(path)
    assert (config.topk_method, found.topk_method, found.n_group) == ("greedy", "greedy", 1)


@pytest.mark.parametrize("kind", FILE_TYPES)
def test_numbers_in_the_file_are_the_encoders(kind: str, tmp_path: Path) -> None:
    """What the independent reader finds, and what we load, is what was rounded: nothing shifts or turns on the way."""
    path = tmp_path / "x.gguf"
    export(bundled_model(), path, FILE_TYPES[kind], name="x")
    model = weights.load(bundled_model(), dtype=torch.bfloat16)
    tensors = {tensor.name: tensor for tensor in package.GGUFReader(path).tensors}
    for ours, parameter in model.named_parameters():
        if ours.endswith("kv_b_proj"):
            continue
        tensor = tensors[tensor_name(ours)]
        expected = encode(tensor.tensor_type.name, parameter.detach())
        assert torch.equal(
            torch.from_numpy(tensor.data.copy()).view(torch.uint8).flatten(), expected.flatten()
        ), ours
    if cpu.kernels is not None:
        loaded = gguf.load(path, dtype=torch.float32)
        name = "layers.2.mlp.experts.down_proj"
        tensor = tensors[tensor_name(name)]
        theirs = torch.from_numpy(package.quants.dequantize(tensor.data.copy(), tensor.tensor_type).copy())
        assert torch.equal(loaded.get_parameter(name).flatten(), theirs.flatten())


def test_metadata_is_what_converters_write(tiny_full_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    export(tiny_full_checkpoint, path, FILE_TYPES["q8_0"], name="a model")
    reader = package.GGUFReader(path)
    tokenizer = Tokenizer.from_folder(tiny_full_checkpoint)
    expected = {
        "general.architecture": "deepseek2",
        "general.name": "a model",
        "general.file_type": package.LlamaFileType.MOSTLY_Q8_0,
        "general.quantization_version": package.GGML_QUANT_VERSION,
        "deepseek2.block_count": 4,
        "deepseek2.attention.head_count_kv": 1,
        "deepseek2.attention.key_length": 40,
        "deepseek2.attention.value_length": 32,
        "deepseek2.attention.key_length_mla": 24,
        "deepseek2.attention.value_length_mla": 16,
        "deepseek2.attention.q_lora_rank": 48,
        "deepseek2.expert_group_count": 8,
        "deepseek2.expert_group_used_count": 3,
        "deepseek2.expert_weights_scale": 16.0,
        "deepseek2.expert_weights_norm": False,
        "deepseek2.rope.scaling.yarn_log_multiplier": pytest.approx(0.1),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "deepseek-llm",
        "tokenizer.ggml.bos_token_id": tokenizer.bos_id,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_id,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }
    assert {key: _field(reader, key) for key in expected} == expected
    tokens, types = _field(reader, "tokenizer.ggml.tokens"), _field(reader, "tokenizer.ggml.token_type")
    assert len(tokens) == len(types) == 600
    assert (tokens[tokenizer.bos_id], types[tokenizer.bos_id]) == ("<｜begin▁of▁sentence｜>", 3)
    assert (tokens[599], types[599]) == ("[PAD599]", 5)
    assert all(len(name) <= 64 for name in (tensor.name for tensor in reader.tensors))


def test_the_tokenizer_comes_back(tiny_checkpoint: Path, tmp_path: Path) -> None:
    export(tiny_checkpoint, tmp_path / "x.gguf", FILE_TYPES["q8_0"], name="x")
    ours, theirs = gguf.read_tokenizer(tmp_path / "x.gguf"), Tokenizer.from_folder(tiny_checkpoint)
    assert ours.token_bytes(599) == theirs.token_bytes(599) == b""  # a row of the model without a token
    text = "def f(x):\n    return x + 1  # 你好 🚀 <｜fim▁hole｜>"
    for control in (False, True):
        assert ours.encode(text, bos=True, control=control) == theirs.encode(text, bos=True, control=control)
    assert (ours.fim, ours.special_ids, ours.vocab_size) == (
        theirs.fim,
        theirs.special_ids,
        theirs.vocab_size,
    )


@needs_kernels
@pytest.mark.parametrize(("kind", "bound"), [("bf16", 0.01), ("q8_0", 0.05), ("q4_k_m", 0.4)])
def test_the_bundled_model_stays_itself(kind: str, bound: float, tmp_path: Path) -> None:
    export(bundled_model(), tmp_path / "x.gguf", FILE_TYPES[kind], name="x")
    batch = Batch.packed(
        [Tokenizer.from_folder(bundled_model()).encode("def quick_sort(values):\n    if", bos=True)]
    )
    with torch.inference_mode():
        expected = weights.load(bundled_model(), dtype=torch.float32)(batch)
        found = gguf.load(tmp_path / "x.gguf")(batch)
    assert relative_error(found, expected) < bound


def test_a_model_with_two_scales_for_yarn_is_refused(tmp_path: Path) -> None:
    config = tiny_config()
    scaling = config.to_dict()["rope_scaling"] | {"mscale": 1.0}
    weights.save(tiny_model(tiny_config(rope_scaling=scaling)), tiny_tokenizer_folder(tmp_path / "m"))
    with pytest.raises(Unsupported, match=r"mscale 1\.0 and mscale_all_dim 0\.707"):
        export(tmp_path / "m", tmp_path / "x.gguf", FILE_TYPES["bf16"], name="x")
    assert not list(tmp_path.glob("*.gguf*"))


def test_a_tokenizer_that_cuts_otherwise_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for file in tiny_checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    state = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    state["pre_tokenizer"]["pretokenizers"].pop(0)
    (folder / "tokenizer.json").write_text(json.dumps(state), "utf-8")
    with pytest.raises(Unsupported, match="cuts text otherwise"):
        export(folder, tmp_path / "x.gguf", FILE_TYPES["bf16"], name="x")


def test_a_damaged_checkpoint_leaves_no_file_behind(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for file in tiny_checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[-4:] = b"\0\0\xc0\x7f"  # the last number is not one
    (folder / "model.safetensors").write_bytes(raw)
    with pytest.raises(BadCheckpoint, match="NaN"):
        export(folder, tmp_path / "x.gguf", FILE_TYPES["bf16"], name="x")
    assert not list(tmp_path.glob("*.gguf*"))


PEAK = """
import sys
from pathlib import Path
import torch
from coderv2.model.gguf_export import export
from coderv2.model.gguf_types import FILE_TYPES
def peak(): return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) << 10
before = peak()
export(Path(sys.argv[1]), Path(sys.argv[2]), FILE_TYPES["bf16"], name="x")
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads the peak from /proc, which only Linux has"
)
def test_exporting_holds_a_few_tensors_and_not_the_model(tmp_path: Path) -> None:
    wide = {"hidden_size": 1024, "moe_intermediate_size": 512, "n_routed_experts": 64, "vocab_size": 32000}
    model = tiny_model(tiny_config(num_hidden_layers=6, **wide)).bfloat16()
    weights.save(model, tiny_tokenizer_folder(tmp_path / "m"))
    largest = max(p.nbytes for p in model.parameters())
    size = sum(p.nbytes for p in model.parameters())
    command = [sys.executable, "-c", PEAK, str(tmp_path / "m"), str(tmp_path / "x.gguf")]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert size > 12 * largest
    assert peak < 4 * largest, f"{peak / largest:.1f} times the largest tensor"
