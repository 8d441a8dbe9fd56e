"""Experts in two places: one place's numbers, and the device is never idle while the CPU computes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from coderv2.kernels import offload, reference
from coderv2.kernels.native import FeedForward
from coderv2.kernels.ops import Ops
from coderv2.kernels.packing import unpack
from tests.kernels.packed import random, random_weight

E, K, D, F = 6, 3, 96, 40
ROUTED = tuple(random_weight("f32", E, *shape, seed=n) for n, shape in enumerate(((F, D), (F, D), (D, F))))
SHARED = tuple(
    unpack(random_weight("f32", *shape, seed=9 + n)) for n, shape in enumerate(((F, D), (F, D), (D, F)))
)


class Noted:
    """A link, and ops, that write down who does what when."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self._way = offload.NoLink()

    def leave(self, *tensors: Tensor) -> Callable[[], list[Tensor]]:
        self.done.append("leave")
        arrived = self._way.leave(*tensors)

        def wait() -> list[Tensor]:
            self.done.append("wait")
            return arrived()

        return wait

    def memory(self, *shape: int) -> Tensor:
        return self._way.memory(*shape)

    def send(self, rows_TD: Tensor) -> Tensor:
        self.done.append("send")
        return self._way.send(rows_TD)

    def mixture(self, *arguments: Any) -> Tensor:
        self.done.append("device")
        return Ops.mixture(*arguments)

    def swiglu(self, *arguments: Any) -> Tensor:
        self.done.append("device")
        out_TD: Tensor = Ops.swiglu(*arguments)
        return out_TD


def _places(near: list[int]) -> tuple[Tensor, Tensor]:
    far = [e for e in range(E) if e not in near]
    numbers = [torch.full((E,), -1), torch.full((E,), -1)]
    for places_E, members in zip(numbers, (near, far), strict=True):
        places_E[members] = torch.arange(len(members))
    return numbers[0], numbers[1]


def _mixture(noted: Noted, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, near: list[int]) -> Tensor:
    near_E, far_E = _places(near)
    stacks = tuple(unpack(weight)[near] for weight in ROUTED) if near else None
    rest = [e for e in range(E) if e not in near]
    far: FeedForward = tuple(type(w)(w.format, (len(rest), *w.shape[1:]), w.data[rest]) for w in ROUTED)  # type: ignore[assignment]
    ids = near_E[experts_TK], far_E[experts_TK]
    return offload.mixture(noted, x_TD, weights_TK, *ids, stacks, SHARED, far, noted)


@given(st.lists(st.integers(0, E - 1), unique=True, max_size=E - 1).map(sorted), st.integers(1, 20))
@settings(max_examples=40)
def test_it_is_the_reference_whoever_is_where(near: list[int], tokens: int) -> None:
    x_TD, (weights_TK, experts_TK) = random(tokens, D), random(tokens, E, seed=3).softmax(-1).topk(K)
    out_TD = _mixture(Noted(), x_TD, weights_TK, experts_TK, near)
    plain: Any = map(unpack, ROUTED)
    wanted_TD = reference.experts(x_TD, weights_TK, experts_TK, *plain) + reference.swiglu(x_TD, *SHARED)
    torch.testing.assert_close(out_TD, wanted_TD, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("near", [[], [0, 2]])
def test_the_device_has_its_work_before_the_host_waits(near: list[int]) -> None:
    noted, ids_TK = Noted(), torch.tensor([[1, 2, 5]])
    _mixture(noted, random(1, D), torch.ones(1, K), ids_TK, near)
    assert noted.done == ["leave", "device", "wait", "send"]


def test_nothing_is_sent_back_when_no_expert_in_ram_was_chosen() -> None:
    noted, ids_TK = Noted(), torch.tensor([[0, 1, 2]])
    _mixture(noted, random(1, D), torch.ones(1, K), ids_TK, [0, 1, 2])
    assert noted.done == ["leave", "device", "wait"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_and_the_cpu_give_the_reference_together() -> None:
    device = torch.device("cuda")
    x_TD, (weights_TK, experts_TK) = random(33, D), random(33, E, seed=3).softmax(-1).topk(K)
    near_E, far_E = _places([1, 4])
    far: Any = tuple(type(w)(w.format, (4, *w.shape[1:]), w.data[[0, 2, 3, 5]]) for w in ROUTED)
    there = [t.to(device) for t in (x_TD, weights_TK, near_E[experts_TK], far_E[experts_TK])]
    stacks, shared = ([t.to(device) for t in some] for some in ([unpack(w)[[1, 4]] for w in ROUTED], SHARED))
    out_TD = offload.mixture(Ops, *there, stacks, shared, far, offload.link(device))
    plain: Any = map(unpack, ROUTED)
    wanted_TD = reference.experts(x_TD, weights_TK, experts_TK, *plain) + reference.swiglu(x_TD, *SHARED)
    torch.testing.assert_close(out_TD.cpu(), wanted_TD, rtol=1e-3, atol=1e-3)
