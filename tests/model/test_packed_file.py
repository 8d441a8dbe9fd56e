"""A packed folder opens with the same numbers; however it is damaged, one error names the place."""

import json
import random
import struct
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import torch

from coderv2.errors import BadCheckpoint, CoderV2Error, Unsupported
from coderv2.kernels.memory import mapped_bytes
from coderv2.model import packed_file, weights
from coderv2.model.batch import Batch
from coderv2.model.convert import pack_folder
from coderv2.model.loading import open_model, open_plain
from coderv2.model.packed_file import NAME, PackedFile
from coderv2.model.placement import Placement
from coderv2.model.published import published_tensors
from tests.parity import sample_ids
from tests.tiny import tiny_config, tiny_model

GATE = "layers.1.mlp.experts.gate_proj"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wide checkpoint."""
    folder = tmp_path_factory.mktemp("wide")
    weights.save(tiny_model(tiny_config()), folder)
    return folder


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    """The same, packed."""
    pack_folder(source, tmp_path / "packed")
    return tmp_path / "packed"


@pytest.mark.parametrize("family", ["lite", "full"])
def test_packing_changes_no_bit_of_the_logits(family: str, tmp_path: Path) -> None:
    weights.save(tiny_model(tiny_config(family)), tmp_path / "wide")
    pack_folder(tmp_path / "wide", tmp_path / "packed")
    batch = Batch.packed([sample_ids(40)])
    with torch.inference_mode():
        expected, ours = (open_model(tmp_path / name)(batch) for name in ("wide", "packed"))
    assert torch.equal(expected, ours)


def test_written_out_again_it_is_the_checkpoint_that_it_was_made_of(folder: Path, source: Path) -> None:
    again, model = open_plain(folder, dtype=torch.float32), weights.load(source)
    for (name, a), (_, b) in zip(published_tensors(again), published_tensors(model), strict=True):
        assert torch.equal(a, b), name


def test_it_is_written_out_in_the_checkpoints_own_numbers(folder: Path) -> None:
    """A float32 checkpoint came back rounded to bfloat16."""
    assert open_plain(folder).dtype == torch.float32


def test_float16_is_refused_as_of_other_folders(folder: Path) -> None:
    for open_it in (open_model, open_plain):
        with pytest.raises(Unsupported, match="float16 overflows"):
            open_it(folder, dtype=torch.float16)


def test_beside_a_device_only_experts_in_ram_take_memory_of_our_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole file moved there, near experts and vocabulary too."""
    mapped: list[torch.Tensor] = []

    def remember(file: int) -> torch.Tensor:
        mapped.append(mapped_bytes(file))
        return mapped[-1]

    monkeypatch.setattr(packed_file, "mapped_bytes", remember)
    monkeypatch.setattr(packed_file, "settle", lambda data: pytest.fail("the whole file was to move"))
    layers, E = (1, 2), 16
    for near in (dict.fromkeys(layers, ()), {1: tuple(range(E)), 2: ()}, dict.fromkeys(layers, (0, 3))):
        model = open_model(folder, dtype=torch.float32, placement=Placement(near, E))
        first, count = mapped[-1].data_ptr(), mapped[-1].numel()
        for weight in model.weights():
            assert not first <= weight.data.data_ptr() < first + count


def test_saving_writes_the_numbers_or_refuses(folder: Path, source: Path, tmp_path: Path) -> None:
    """Of a packed model only the norms were written, without a word."""
    weights.save(open_model(folder), tmp_path / "again")
    pairs = zip(*(published_tensors(weights.load(f)) for f in (source, tmp_path / "again")), strict=True)
    assert all(torch.equal(a, b) for (_, a), (_, b) in pairs)
    divided = open_model(folder, dtype=torch.float32, placement=Placement({1: (), 2: ()}, 16))
    with pytest.raises(Unsupported, match="is not whole"):
        weights.save(divided, tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_values_begin_on_pages(folder: Path) -> None:
    index = _index(folder)
    assert all(value["offset"] % 4096 == 0 for value in index["values"].values())
    assert not (folder / f"{NAME}.part").exists()


def test_a_write_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def fail() -> None:
        with packed_file.Writer(tmp_path, tiny_config()) as writer:
            writer.add("norm", torch.ones(64))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_packed_folder_is_refused_where_plain_weights_are_needed(folder: Path) -> None:
    with pytest.raises(Unsupported, match="packed weights"):
        weights.load(folder)


def test_the_file_that_the_config_promises_is_missing(folder: Path) -> None:
    (folder / NAME).unlink()
    with pytest.raises(BadCheckpoint, match=NAME):
        open_model(folder)


def test_another_version_says_so(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["quantization_config"]["version"] = 2
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(Unsupported, match="version 2"):
        open_model(folder)


def test_a_config_that_changed_since_is_stale(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["rope_theta"] = 20000
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(BadCheckpoint, match=r"made for rope_theta 10000, config\.json says 20000; convert"):
        open_model(folder)


def test_a_flipped_bit_in_any_value_names_it(folder: Path) -> None:
    for name, value in list(_index(folder)["values"].items())[::7]:
        offset = value["offset"] + value["bytes"] // 2
        _flip(folder, offset)
        with pytest.raises(BadCheckpoint, match=name.replace(".", r"\.")):
            open_model(folder)
        _flip(folder, offset)
    open_model(folder)


def test_whatever_is_damaged_is_one_error_or_harmless(folder: Path) -> None:
    whole = (folder / NAME).read_bytes()
    chance = random.Random(5)
    for _ in range(60):
        data = bytearray(whole)
        place = chance.choice(
            [chance.randrange(40), chance.randrange(len(data)), len(data) - chance.randrange(3000) - 1]
        )
        if chance.random() < 0.3:
            del data[place:]
        else:
            data[place] ^= 1 << chance.randrange(8)
        (folder / NAME).write_bytes(data)
        with suppress(CoderV2Error):  # anything else fails the test; zeros between values may change
            open_model(folder)


DAMAGES: dict[str, tuple[Callable[[dict[str, object]], object], str]] = {
    "missing": (lambda values: values.pop(GATE), "begins at"),
    "renamed": (lambda values: values.update({"layers.1.x": values.pop(GATE)}), f"{GATE} is missing"),
    "stray": (lambda values: values.update({"layers.9.x": values[GATE]}), "begins at|not part"),
    "shape": (lambda values: values[GATE].update(shape=[16, 64, 24]), "takes|does not take|has shape"),  # type: ignore[attr-defined]
    "format": (lambda values: values[GATE].update(format=77), "format 77"),  # type: ignore[attr-defined]
    "offset": (lambda values: values[GATE].update(offset=1 << 40), "begins at"),  # type: ignore[attr-defined]
    "negative": (lambda values: values[GATE].update(bytes=-4), "out of range"),  # type: ignore[attr-defined]
    "kind": (lambda values: values[GATE].update(offset="x"), "out of range"),  # type: ignore[attr-defined]
    "key": (lambda values: values[GATE].pop("checksum"), "index cannot be used"),  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_index_that_lies_with_a_right_checksum(folder: Path, damage: str) -> None:
    change, message = DAMAGES[damage]
    index = _index(folder)
    change(index["values"])
    _write_index(folder, index)
    with pytest.raises((BadCheckpoint, Unsupported), match=message):
        open_model(folder)


def test_a_foreign_file_and_an_unfinished_one(folder: Path) -> None:
    for data, message in ((b"GGUF", "too short"), (bytes(10_000), "not a file of packed weights")):
        (folder / NAME).write_bytes(data)
        with pytest.raises(BadCheckpoint, match=message):
            open_model(folder)


def _index(folder: Path) -> dict[str, dict[str, object]]:
    data = (folder / NAME).read_bytes()
    _, _, _, begin, length, _ = packed_file._HEAD.unpack(data[: packed_file._HEAD.size])
    index: dict[str, dict[str, object]] = json.loads(data[begin : begin + length])
    return index


def _write_index(folder: Path, index: dict[str, dict[str, object]]) -> None:
    data = bytearray((folder / NAME).read_bytes())
    magic, version, zero, begin, _, _ = packed_file._HEAD.unpack(data[: packed_file._HEAD.size])
    raw = json.dumps(index).encode()
    data[begin:] = raw
    struct.pack_into("<8sIIQQQ", data, 0, magic, version, zero, begin, len(raw), packed_file._sum(raw))
    (folder / NAME).write_bytes(data)


def _flip(folder: Path, offset: int) -> None:
    with (folder / NAME).open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))


def test_the_file_is_opened_and_closed(folder: Path) -> None:
    with ExitStack() as stack:
        file = PackedFile(folder, stack)
        assert isinstance(file.read("norm"), torch.Tensor)
        with pytest.raises(BadCheckpoint, match="embed"):
            file.check(file.config, {"embed_tokenz": (1, 2)})


def test_new_weights_wait_until_the_old_ones_lie_still(
    folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, order = open_model(folder), []
    monkeypatch.setattr(weights, "settled", lambda: order.append("settled"))
    monkeypatch.setattr(weights, "take_values", lambda *_: order.append("written"))
    weights.update(model, source)
    assert order == ["settled", "written"]
