"""Checkpoints out and in again; every way in which one can be damaged is one error that names the place."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from coderv2.errors import BadCheckpoint, CoderV2Error, Unsupported
from coderv2.model.batch import Batch
from coderv2.model.published import published_tensors
from coderv2.model.weights import INDEX, SINGLE, auto_dtype, load, save
from tests.parity import sample_ids
from tests.tiny import tiny_config, tiny_model

GATE = "model.layers.1.mlp.experts.3.gate_proj.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One file."""
    save(tiny_model(tiny_config()), tmp_path)
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """Several files and an index."""
    save(tiny_model(tiny_config()), tmp_path, max_shard_bytes=300_000)
    return tmp_path


@pytest.mark.parametrize("shard_bytes", [1 << 30, 300_000, 1])
@pytest.mark.parametrize("family", ["lite", "full"])
def test_saved_model_loads_bit_for_bit(tmp_path: Path, family: str, shard_bytes: int) -> None:
    model = tiny_model(tiny_config(family))
    save(model, tmp_path, max_shard_bytes=shard_bytes)
    again = load(tmp_path)
    assert again.config == model.config
    for (name, a), (_, b) in zip(published_tensors(model), published_tensors(again), strict=True):
        assert torch.equal(a, b), name


def test_files_hold_the_published_per_expert_layout(folder: Path) -> None:
    tensors = load_file(folder / SINGLE)
    assert tensors[GATE].shape == (24, 64)
    assert tensors["model.layers.0.self_attn.q_proj.weight"].shape == (96, 64)
    assert {"lm_head.weight", "model.norm.weight", "model.embed_tokens.weight"} <= tensors.keys()


def test_weights_may_be_read_by_whoever_may_read_the_config(folder: Path) -> None:
    assert (folder / SINGLE).stat().st_mode == (folder / "config.json").stat().st_mode


def test_saving_over_a_sharded_model_leaves_no_stale_index(sharded: Path) -> None:
    model = tiny_model(tiny_config(), seed=3)
    save(model, sharded)
    assert torch.equal(load(sharded).lm_head, model.lm_head)


def test_bfloat16_is_kept_and_float16_becomes_bfloat16(folder: Path) -> None:
    halves = {name: t.half() for name, t in load_file(folder / SINGLE).items()}
    save_file(halves, folder / SINGLE)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": "float16"}))
    assert load(folder).dtype == torch.bfloat16
    assert load(folder, dtype=torch.float32).dtype == torch.float32
    with pytest.raises(Unsupported, match="float16"):
        load(folder, dtype=torch.float16)


def test_small_model_runs_in_float32_on_a_cpu_only(folder: Path) -> None:
    assert auto_dtype(folder, "cpu") == torch.float32
    assert auto_dtype(folder, "cuda") is None
    with (folder / "more.safetensors").open("wb") as file:
        file.truncate(2 << 30)
    assert auto_dtype(folder, "cpu") is None


def test_old_rotary_buffers_are_ignored(folder: Path) -> None:
    tensors = load_file(folder / SINGLE) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file(tensors, folder / SINGLE)
    assert load(folder)(Batch.packed([sample_ids(3)])).shape == (3, 600)


def _rewrite(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / SINGLE)
        change(tensors)
        save_file(tensors, folder / SINGLE)

    return damage


def _header(change: Callable[[dict[str, dict[str, object]]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        raw = (folder / SINGLE).read_bytes()
        length = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + length])
        change(header)
        new = json.dumps(header).encode()
        (folder / SINGLE).write_bytes(len(new).to_bytes(8, "little") + new + raw[8 + length :])

    return damage


def _truncate(folder: Path) -> None:
    raw = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(raw[: len(raw) // 2])


def _overlap(header: dict[str, dict[str, object]]) -> None:
    down = header[GATE.replace("gate", "down")]
    header[GATE]["data_offsets"] = down["data_offsets"]


def _nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors[GATE][3, 5] = float("nan")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (_truncate, r"model\.safetensors: truncated: \S+ ends at byte"),
    "missing tensor": (_rewrite(lambda t: t.pop(GATE)), rf"{GATE} is missing"),
    "extra tensor": (_rewrite(lambda t: t.update(stranger=torch.ones(2))), "stranger is not a tensor"),
    "wrong shape": (_rewrite(lambda t: t.update({GATE: torch.ones(24, 63)})), rf"{GATE} has shape \[24, 63\]"),
    "wrong dtype": (_rewrite(lambda t: t.update({GATE: torch.ones(24, 64).int()})), rf"{GATE} is of dtype I32"),
    "NaN": (_rewrite(_nan), rf"{GATE} holds NaN"),
    "infinity": (_rewrite(lambda t: t[GATE].fill_(float("inf"))), rf"{GATE} holds NaN or inf"),
    "overlap": (_header(_overlap), "overlaps"),
    "hole": (_header(lambda h: h.pop(GATE)), "belong to none"),
    "offsets against shape": (_header(lambda h: h[GATE].update(shape=[24, 65])), rf"{GATE}: shape"),
    "negative offset": (_header(lambda h: h[GATE].update(data_offsets=[-1, 5])), rf"{GATE}: .* out of range"),
    "not an entry": (_header(lambda h: h.update({GATE: "?"})), rf"{GATE}: header entry lacks"),
    "empty file": (lambda f: (f / SINGLE).write_bytes(b""), "0 bytes, too short"),
    "header past the end": (lambda f: (f / SINGLE).write_bytes(b"\xff" * 7 + b"\x00" * 9), "header claims"),
    "header not JSON": (lambda f: (f / SINGLE).write_bytes((2).to_bytes(8, "little") + b"[}"), "not JSON"),
    "header a list": (lambda f: (f / SINGLE).write_bytes((2).to_bytes(8, "little") + b"[]"), "not an object"),
    "no weights": (lambda f: (f / SINGLE).unlink(), "holds neither"),
    "pickle": (lambda f: (f / SINGLE).rename(f / "pytorch_model.bin"), r"pytorch_model\.bin: a pickle file"),
    "no config": (lambda f: (f / "config.json").unlink(), r"config\.json: not found"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_file_is_one_error_naming_file_and_tensor(folder: Path, kind: str) -> None:
    damage, message = DAMAGE[kind]
    damage(folder)
    with pytest.raises(CoderV2Error, match=message) as caught:
        load(folder)
    assert str(folder) in str(caught.value) or "config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def _index(folder: Path) -> dict[str, dict[str, str]]:
    return json.loads((folder / INDEX).read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "file", ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "x.bin", "..", ""]
)
def test_index_may_name_only_files_of_its_folder(sharded: Path, file: str) -> None:
    index = _index(sharded)
    index["weight_map"][GATE] = file
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(BadCheckpoint, match="only safetensors files of this folder"):
        load(sharded)


def test_index_that_disagrees_with_the_files_is_refused(sharded: Path) -> None:
    index = _index(sharded)
    other = next(f for f in index["weight_map"].values() if f != index["weight_map"][GATE])
    index["weight_map"][GATE] = other
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(BadCheckpoint, match=GATE):
        load(sharded)


def test_missing_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(BadCheckpoint, match=shard.name):
        load(sharded)


@pytest.mark.parametrize("text", ["", "[]", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_unusable_index_is_named(sharded: Path, text: str) -> None:
    (sharded / INDEX).write_text(text)
    with pytest.raises(BadCheckpoint, match=r"index\.json"):
        load(sharded)


PEAK = """
import resource, sys, torch
from coderv2.model.weights import load
def peak(): return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) << 10
before = peak()
model = load(sys.argv[1])
print((peak() - before) / sum(p.nbytes for p in model.parameters()))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads the peak from /proc, which only Linux has"
)
def test_loading_peaks_at_no_more_than_a_tenth_above_the_weights(tmp_path: Path) -> None:
    wide = {"hidden_size": 1024, "moe_intermediate_size": 512, "n_routed_experts": 64, "vocab_size": 32000}
    model = tiny_model(tiny_config(num_hidden_layers=6, **wide)).bfloat16()
    save(model, tmp_path, max_shard_bytes=400 << 20)
    assert sum(p.nbytes for p in model.parameters()) > 1 << 30
    ratio = float(
        subprocess.run(
            [sys.executable, "-c", PEAK, tmp_path], capture_output=True, text=True, check=True
        ).stdout
    )
    assert ratio <= 1.1, f"peak is {ratio:.3f} times the weights"
