"""Deciding what goes where, and an engine whose model has experts in RAM."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Type

from coderv2.engine import offload
from coderv2.engine.engine import Engine, EngineSettings
from coderv2.engine.llm import LLM
from coderv2.engine.offload import Wish, decide, for_device, memory_bytes
from coderv2.engine.request import SamplingParams
from coderv2.errors import BadData, InvalidValue, Unsupported
from coderv2.kernels.scaled import Kind, Scaled, restore
from coderv2.model import usage
from coderv2.model.batch import Batch
from coderv2.model.convert import quantise_folder
from coderv2.model.loading import open_config, open_model, open_tokenizer
from coderv2.model.placement import chosen
from coderv2.model.weights import load
from tests.engine.fakes import answer, run
from tests.engine.test_graphs import Recording
from tests.model.fp8_files import LAYOUTS, fp8_folder
from tests.model.gguf_files import needs_kernels, write_gguf
from tests.tiny import tiny_config, tiny_model

SETTINGS = EngineSettings(max_model_len=64, max_running=2, max_batch_tokens=64)
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
PLENTY = 1 << 40


def _must(wish: Wish) -> int:
    """Bytes without which there is no plan."""
    config = open_config(wish.path)
    wanted = offload.demand(config, SETTINGS, wish.wide(config))
    return wish.sizes(config).fixed + wanted.work + wanted.least * wanted.token


def _kept(wish: Wish) -> int:
    """Bytes of recorded steps."""
    config = open_config(wish.path)
    return offload.demand(config, SETTINGS, wish.wide(config)).recorded


def test_more_memory_means_more_experts_there_until_all_are(tiny_full_checkpoint: Path) -> None:
    wish = Wish(tiny_full_checkpoint, torch.float32)
    each = wish.sizes(open_config(wish.path)).near
    rooms = (0, 4 * each, 40 * each, 3 * 40 * each + _kept(wish))
    counts = [decide(wish, SETTINGS, _must(wish) + room, PLENTY).placement.count for room in rooms]
    assert counts == sorted(counts)
    assert counts[0] == 0 < counts[1]
    assert counts[-1] == 3 * 40


def test_what_cannot_be_is_an_error_with_a_way_out(tiny_full_checkpoint: Path) -> None:
    wish = Wish(tiny_full_checkpoint, torch.float32)
    must = _must(wish)
    with pytest.raises(InvalidValue, match="even what every token uses"):
        decide(wish, SETTINGS, must - 1, PLENTY)
    with pytest.raises(InvalidValue, match=r"left for RAM, of which 0\.0 GB are free"):
        decide(wish, SETTINGS, must, 1000)
    with pytest.raises(InvalidValue, match="GB more than the"):
        decide(Wish(wish.path, torch.float32, experts="gpu"), SETTINGS, must, PLENTY)


def test_sizes_are_in_the_checkpoints_own_numbers(tiny_checkpoint: Path) -> None:
    config = open_config(tiny_checkpoint)
    assert config.torch_dtype == "float32"
    assert Wish(tiny_checkpoint).sizes(config) == Wish(tiny_checkpoint, torch.float32).sizes(config)
    assert (
        Wish(tiny_checkpoint, torch.bfloat16).sizes(config).near * 2
        == Wish(tiny_checkpoint).sizes(config).near
    )


def test_a_plan_has_room_for_recorded_steps_where_there_are_any(tiny_full_checkpoint: Path) -> None:
    """Their logits, what they share and cuBLAS's memory were in no plan; with experts in RAM none is recorded."""
    wish = Wish(tiny_full_checkpoint, torch.float32)
    config = open_config(wish.path)
    wanted = offload.demand(config, SETTINGS, torch.float32)
    assert wanted.recorded > offload.WORKSPACE + 5 * SETTINGS.max_running * config.vocab_size * 4
    fits = _must(wish) + 3 * 40 * wish.sizes(config).near
    all_there = decide(wish, SETTINGS, fits + wanted.recorded, PLENTY)
    assert all_there.placement.whole
    assert all_there.work == wanted.work + wanted.recorded
    short = decide(wish, SETTINGS, fits + wanted.recorded - 1, PLENTY)
    assert not short.placement.whole
    assert short.work == wanted.work
    counted = replace(wish, usage=tiny_full_checkpoint / "none yet")
    for how, settings in ((counted, SETTINGS), (wish, replace(SETTINGS, graphs=False))):
        made = decide(how, settings, fits, PLENTY)
        assert made.placement.whole
        assert made.work == wanted.work
    with pytest.raises(InvalidValue, match=r"need 0\.0 GB more than"):
        decide(replace(wish, experts="gpu"), SETTINGS, fits + wanted.recorded - 1, PLENTY)


def test_experts_can_all_be_sent_to_ram(tiny_checkpoint: Path) -> None:
    made = decide(Wish(tiny_checkpoint, experts="ram"), SETTINGS, PLENTY, PLENTY)
    assert made.placement.count == 0
    assert made.in_ram == 32 * made.sizes.far


def test_counts_of_the_models_folder_choose_who_stays(tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = open_config(tiny_checkpoint)
    counts = {1: tuple(range(16)), 2: (50,) + (0,) * 15}
    usage.Usage(counts).save(tmp_path / "usage.json")
    wish = Wish(tiny_checkpoint, torch.float32, usage=tmp_path / "usage.json")
    room = 3 * wish.sizes(config).near * 4 // 3 + 4
    near = decide(wish, SETTINGS, _must(wish) + room, PLENTY).placement.near
    assert 0 in near[2]
    assert 15 in near[1]
    (tmp_path / "usage.json").write_text("no")
    with pytest.raises(BadData, match="counts of experts"):
        wish.counts(config)


def test_counts_are_added_to_the_file_once_however_often_they_are_saved(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    wish = Wish(tiny_checkpoint, torch.float32, usage=tmp_path / "usage.json")
    for turn in (1, 2):
        model = offload.open_planned(wish, None, "cpu")
        engine = Engine(model, open_tokenizer(tiny_checkpoint), SETTINGS)
        save = offload.UsageSaver(wish, model)
        engine.submit([5, 6, 7], GREEDY)
        run(engine)
        for _ in range(2):
            save()
            found = usage.read(tmp_path / "usage.json", model.config)
            # Three tokens of the prompt and eleven of the answer pass through six experts of each layer.
            assert sum(found.counts[1]) == turn * 14 * 6


def test_an_llm_with_a_usage_file_saves_what_its_answers_chose(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offload, "for_device", lambda *_, **__: None)  # as a GPU with room for all has it
    file = tmp_path / "usage.json"
    llm = LLM(tiny_checkpoint, max_model_len=64, expert_usage=file)
    llm.generate("x", SamplingParams(max_tokens=3, temperature=0, ignore_eos=True), use_tqdm=False)
    llm.save_usage()
    found = usage.read(file, llm.engine.config)
    assert sum(found.counts[1]) > 0


def test_code_is_counted_into_the_models_folder(tiny_checkpoint: Path, tmp_path: Path) -> None:
    text = tmp_path / "code.py"
    text.write_text("def add(a, b):\n    return a + b\n" * 200)
    wish = Wish(tiny_checkpoint, torch.float32, usage=tmp_path / "usage.json")
    path = offload.count_on_text(wish, text)
    counts = wish.counts(open_config(tiny_checkpoint))
    assert path == tmp_path / "usage.json"
    assert counts is not None
    assert sum(counts.counts[1]) == sum(counts.counts[2]) > 1000


@pytest.mark.parametrize("count", [0, 9])
def test_an_engine_gives_the_answers_of_one_place_and_records_nothing(
    count: int, tiny_checkpoint: Path
) -> None:
    tokenizer = open_tokenizer(tiny_checkpoint)
    placement, recorder = chosen(open_config(tiny_checkpoint), count), Recording()
    found = []
    for model in (
        open_model(tiny_checkpoint, dtype=torch.float32),
        open_model(tiny_checkpoint, dtype=torch.float32, placement=placement),
    ):
        engine = Engine(model, tokenizer, SETTINGS, recorder=recorder)
        ids = [engine.submit([5 + n, 9, 11, 40], GREEDY) for n in range(2)]
        deltas = run(engine)
        found.append([answer(deltas, one) for one in ids])
        recorded = recorder.recorded
    assert found[0] == found[1]
    assert recorded == recorder.recorded > 0
    assert not model.recordable


def test_on_the_cpu_and_on_ranks_such_wishes_are_refused(tiny_checkpoint: Path) -> None:
    for wish, memory in ((Wish(tiny_checkpoint, experts="ram"), None), (Wish(tiny_checkpoint), "1G")):
        with pytest.raises(Unsupported, match="on the CPU"):
            for_device(wish, SETTINGS, "cpu", memory, several=False)
        with pytest.raises(Unsupported, match="several ranks"):
            for_device(wish, SETTINGS, "cuda", memory, several=True)
    assert for_device(Wish(tiny_checkpoint), SETTINGS, "cpu", None, several=False) is None


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("24G", 24 << 30),
        ("800m", 800 << 20),
        ("1.5GiB", 3 << 29),
        (4096, 4096),
        ("2T", 2 << 40),
        ("512kB", 1 << 19),
    ],
)
def test_amounts_of_memory(given: str | int, wanted: int) -> None:
    assert memory_bytes(given) == wanted


@pytest.mark.parametrize("given", ["", "G", "24X", "-1G", "0", "nan", "1e3"])
def test_what_is_no_amount(given: str) -> None:
    with pytest.raises(InvalidValue, match="no amount of memory"):
        memory_bytes(given)


def test_the_plan_is_told_in_one_line(tiny_checkpoint: Path) -> None:
    wish = Wish(tiny_checkpoint, torch.float32)
    line = offload.told(decide(wish, SETTINGS, _must(wish), PLENTY))
    assert "0 of 32 routed experts" in line
    assert "\n" not in line


@needs_kernels
@pytest.mark.parametrize(("weights", "bits"), [("int4", 4), ("int8", 8)])
def test_quants_of_a_packed_folder_are_counted_as_they_lie(
    weights: str, bits: int, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    quantise_folder(tiny_checkpoint, tmp_path, weights, None)
    sizes = Wish(tmp_path).sizes(open_config(tmp_path))
    # Scales, rows filled up to whole blocks, and a vocabulary in more bits weigh much in so small a model.
    assert bits / 8 < sizes.far / sizes.numbers < bits / 8 + 1


@pytest.mark.parametrize("room", ["half", "all"])
def test_an_fp8_checkpoint_takes_half_the_device(
    room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan reckons with codes; where all experts fit so, they are opened so, and not in bfloat16."""
    fp8_folder(tmp_path / "fp8", "block")
    wish = Wish(tmp_path / "fp8")
    config = open_config(wish.path)
    each = wish.sizes(config).near
    assert each < 0.51 * Wish(wish.path, torch.bfloat16).sizes(config).near
    free = _must(wish) + (4 * each if room == "half" else 8 * each + _kept(wish)) + each // 2
    monkeypatch.setattr(offload, "free_bytes", lambda device: free if device.type == "cuda" else PLENTY)
    made = for_device(wish, SETTINGS, "cuda", None, several=False)
    if room == "half":
        assert made is not None
        assert 0 < made.placement.count < made.placement.total
        model = offload.open_planned(wish, made, "cpu")
    else:
        assert made is None
        model = load(wish.path, stored=True)
    assert model.recordable == (room == "all")
    assert {stack.kind for stack in model.layers[1].mlp.experts.weights()} == {"fp8_wide"}


@needs_kernels
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", [None, "fp8"])
def test_what_an_fp8_checkpoint_stores_is_what_the_device_multiplies(
    layout: str, kind: Kind | None, tmp_path: Path
) -> None:
    """Attention, dense layers and shared experts too: the same numbers, in a byte each; with fp8 asked for as well."""
    fp8_folder(tmp_path / "fp8", layout)
    wish, placement = Wish(tmp_path / "fp8", kind=kind), chosen(open_config(tmp_path / "fp8"), 8)
    model = open_model(wish.path, scaled=kind, placement=placement)
    wide = open_model(wish.path, dtype=torch.float32, placement=placement)
    exact = dict(wide.named_parameters())
    stored = {
        f"{stem}.{name}": value
        for stem, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, Scaled)
    }
    assert {name.rpartition(".")[2] for name in stored} == {
        "q_proj", "kv_a_proj_with_mqa", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    assert {value.kind for value in stored.values()} == {kind or "fp8_wide"}
    for name, value in stored.items():
        assert torch.equal(restore(value), exact[name]), name
    fixed = sum(p.nbytes for p in model.parameters()) + sum(value.nbytes for value in stored.values())
    sizes = wish.sizes(model.config)
    assert fixed == sizes.fixed + 8 * sizes.near
    batch = Batch.packed([list(range(20))])
    error = (model(batch) - wide(batch)).norm() / wide(batch).norm()
    assert 0 < error < (0.02 if kind is None else 0.2)  # of activations in bfloat16, or rounded to e4m3


@needs_kernels
@pytest.mark.parametrize("kind", [Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0], ids=lambda t: t.name)
def test_a_plan_counts_the_quants_of_a_gguf_file_as_ram_holds_them(kind: Type, tmp_path: Path) -> None:
    """Types without a kernel of their own grow, up to twice what the file takes."""
    sizes = {"hidden_size": 256, "moe_intermediate_size": 256, "intermediate_size": 512}
    path = write_gguf(tmp_path / "x.gguf", tiny_model(tiny_config(**sizes)), kind=kind)
    wish = Wish(path, experts="ram")
    config = open_config(path)
    model = open_model(path, dtype=torch.float32, placement=chosen(config, 0))
    held = sum(weight.data.nbytes for weight in model.weights())
    assert held == wish.sizes(config).far * 2 * config.n_routed_experts


def test_counts_of_another_model_that_nobody_named_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They stopped every model of that folder."""
    path = write_gguf(tmp_path / "x.gguf", tiny_model(tiny_config()))
    config = open_config(path)
    usage.Usage({1: (1, 2)}).save(Wish(path).usage_file)
    assert Wish(path).counts(config) is None
    assert "counts of experts, but of another model" in caplog.text
    with pytest.raises(BadData, match="of another model"):
        Wish(path, usage=Wish(path).usage_file).counts(config)
    assert Wish(tmp_path / "y.gguf").usage_file != Wish(path).usage_file
