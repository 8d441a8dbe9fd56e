"""Experts that move while an engine runs: the answers stay, and the most used end up on the device."""

from collections import deque
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Type

from coderv2.engine import offload
from coderv2.engine.engine import Engine, EngineSettings
from coderv2.engine.moving import Mover
from coderv2.engine.offload import Wish, decide
from coderv2.engine.request import SamplingParams
from coderv2.errors import InvalidValue, Unsupported
from coderv2.kernels.packing import unpack
from coderv2.model import usage
from coderv2.model.loading import open_config, open_model, open_tokenizer
from coderv2.model.moe import Experts
from coderv2.model.offload import move
from coderv2.model.placement import Placement, Sizes, chosen
from coderv2.model.transformer import Transformer
from tests.engine.fakes import answer, run
from tests.model.gguf_files import needs_kernels, write_gguf
from tests.ranks import PROMPTS, logits
from tests.tiny import tiny_config, tiny_model

SETTINGS = EngineSettings(cache_tokens=512, max_running=3, draft_tokens=0)


def _split(path: Path, count: int = 10) -> Transformer:
    """Some experts on the device, and all of them in RAM; choices are counted."""
    placement = chosen(open_config(path), count, all_in_ram=True)
    model = open_model(path, dtype=torch.float32, placement=placement)
    usage.watch(model)
    return model


def _stacks(model: Transformer) -> dict[int, Experts]:
    return {layer: mixture.experts for layer, mixture in usage.mixtures(model)}


def _near(model: Transformer) -> dict[int, list[int]]:
    return {layer: stack.in_ram.near for layer, stack in _stacks(model).items() if stack.in_ram}


def _ask(engine: Engine) -> list[list[int]]:
    params = SamplingParams(temperature=0.7, seed=3, max_tokens=40, ignore_eos=True)
    ids = [engine.submit([5 + n, 9, 11, 40], params) for n in range(3)]
    deltas = run(engine)
    return [answer(deltas, one) for one in ids]


def test_answers_stay_while_the_most_used_come_to_the_device(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = open_tokenizer(tiny_checkpoint)
    one = open_model(tiny_checkpoint, dtype=torch.float32)
    usage.watch(one)
    wanted = _ask(Engine(one, tokenizer, SETTINGS))
    model = _split(tiny_checkpoint)
    before = {layer: list(near) for layer, near in _near(model).items()}
    unpacked: list[int] = []
    monkeypatch.setattr("coderv2.model.offload.PIECE", 16)
    monkeypatch.setattr(
        "coderv2.model.offload.unpack", lambda weight: (unpacked.append(1), unpack(weight))[1]
    )
    mover, pieces = Mover(model, every=4), []

    def between() -> None:
        unpacked.clear()
        mover()
        pieces.append(len(unpacked))

    engine = Engine(model, tokenizer, SETTINGS, between=between)
    for _ in range(4):
        assert _ask(engine) == wanted
    assert len(pieces) == 4 * 40
    assert set(pieces) == {0, 1}, "one piece a pass at the most"
    # The same answers four times over: what was chosen in one pass over them is what is used.
    counts = usage.counted(one).counts
    for layer, near in _near(model).items():
        assert len(near) == len(before[layer]) == 5
        least = min(counts[layer][expert] for expert in near)
        assert all(counts[layer][e] <= 2 * least for e in set(range(16)) - set(near))
        assert set(near) != set(before[layer])
    torch.testing.assert_close(logits(model, PROMPTS), logits(one, PROMPTS), rtol=0, atol=1e-4)


def test_where_nothing_is_clearly_more_used_nothing_moves(tiny_checkpoint: Path) -> None:
    model = _split(tiny_checkpoint)
    before, mover = {layer: list(near) for layer, near in _near(model).items()}, Mover(model, every=1)
    for _, mixture in usage.mixtures(model):
        assert mixture.used_E is not None
        mixture.used_E += torch.tensor([10] * 8 + [14] * 8)
    for _ in range(50):
        mover()
    assert _near(model) == before


def test_old_choices_fade(tiny_checkpoint: Path) -> None:
    """Expert 14 was used a hundred times long ago, expert 15 is used now."""
    model = _split(tiny_checkpoint, 2)
    mover = Mover(model, every=1)

    def choose(expert: int, times: int) -> None:
        for _, mixture in usage.mixtures(model):
            assert mixture.used_E is not None
            mixture.used_E[expert] += times

    choose(14, 100)
    for _ in range(9):
        mover()
    assert _near(model) == {1: [14], 2: [14]}
    for _ in range(40):
        choose(15, 20)
        mover()
    assert _near(model) == {1: [15], 2: [15]}


@needs_kernels
def test_quants_move_to_and_fro_without_a_loss(tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "x.gguf",
        tiny_model(tiny_config(moe_intermediate_size=32, intermediate_size=128)),
        kind=Type.Q8_0,
    )
    model = _split(path)
    stack = _stacks(model)[1]
    assert stack.in_ram is not None
    before = [getattr(stack, name).clone() for name in ("gate_proj", "up_proj", "down_proj")]
    for _ in move(stack, 12, 3):
        assert stack.in_ram.near == [0, 1, 2, 3, 4], "not before all of it is there"
    assert stack.in_ram.near == [0, 1, 2, 12, 4]
    assert torch.equal(stack.up_proj[3], unpack(stack.in_ram.up_proj)[12])
    deque(move(stack, 3, 3))
    for old, name in zip(before, ("gate_proj", "up_proj", "down_proj"), strict=True):
        assert torch.equal(getattr(stack, name), old)
    assert stack.in_ram.near == [0, 1, 2, 3, 4]


def test_the_plan_has_all_of_them_in_ram(tiny_checkpoint: Path) -> None:
    config = open_config(tiny_checkpoint)
    sizes = Sizes.of(config, torch.float32, None)
    wish = Wish(tiny_checkpoint, torch.float32, move=True)
    wanted = offload.demand(config, SETTINGS, torch.float32)
    budget = sizes.fixed + wanted.work + wanted.least * wanted.token * 4 // 3 + 10 * sizes.near
    made = decide(wish, SETTINGS, budget, 1 << 40)
    assert 0 < made.placement.count < 32
    near = made.placement.near
    assert abs(len(near[1]) - len(near[2])) <= 1
    assert made.in_ram == 32 * sizes.far
    assert "the most used move to the GPU" in offload.told(made)
    with pytest.raises(InvalidValue, match="or to leave out move_experts"):
        decide(wish, SETTINGS, budget, 31 * sizes.far)
    with pytest.raises(Unsupported, match="quantization int4 rounds otherwise in RAM"):
        decide(Wish(tiny_checkpoint, kind="int4", move=True), SETTINGS, budget, 1 << 40)


def test_a_layer_that_is_whole_on_the_device_needs_nothing_in_ram(tiny_checkpoint: Path) -> None:
    placement = Placement({1: tuple(range(16)), 2: (1, 4)}, 16, all_in_ram=True)
    model = open_model(tiny_checkpoint, dtype=torch.float32, placement=placement)
    usage.watch(model)
    assert _near(model) == {2: [1, 4]}
    Mover(model, every=1)()
    torch.testing.assert_close(
        logits(model, PROMPTS), logits(open_model(tiny_checkpoint), PROMPTS), rtol=0, atol=1e-4
    )
