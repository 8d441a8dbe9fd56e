"""A recorded step asks nothing of the device: proved on tensors that have no numbers to give."""

from typing import Any

import pytest
import torch
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from tests.kernels.gpu.place import DEVICE
from coderv2.engine.steps import Buffers, Draws, Step
from coderv2.kernels.gpu.ops import GpuOps
from coderv2.kernels.ops import Ops
from coderv2.model import batch
from coderv2.model.cache import LatentCache
from coderv2.model.transformer import Transformer
from tests.tiny import tiny_config

META = torch.device("meta")


def _step(family: str, B: int, draws: Draws = Draws.NOTHING) -> Step:
    config = tiny_config(family)
    with META:
        model = Transformer(config)
    cache = LatentCache(config, 9, 16, torch.bfloat16, META)
    return Step(model, cache, Buffers(B, 8, META), torch.empty(B, config.vocab_size, device=META), draws)


@torch.inference_mode()
@pytest.mark.parametrize("family", ["lite", "full"])
@pytest.mark.parametrize("B", [2, 40])
@pytest.mark.parametrize("draws", Draws)
def test_no_step_waits_for_a_number(
    family: str, B: int, draws: Draws, monkeypatch: pytest.MonkeyPatch
) -> None:
    launches: list[Any] = []
    for kernel in (InterpretedFunction, JITFunction):
        monkeypatch.setattr(kernel, "run", lambda *a, **k: launches.append(k["grid"]))
    monkeypatch.setattr(batch, "pick", lambda **_: GpuOps)
    logits_BW = _step(family, B, draws)()
    assert logits_BW.shape == (B, 600)
    assert len(launches) > 20
    assert DEVICE.type in ("cpu", "cuda")


@torch.inference_mode()
def test_operations_that_do_wait_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "pick", lambda **_: Ops)
    with pytest.raises((RuntimeError, NotImplementedError)):
        _step("lite", 2)()
