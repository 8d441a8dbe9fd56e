"""CUDA graphs without CUDA: what of it is shared, and what must stay."""

import gc
import weakref
from contextlib import nullcontext
from unittest.mock import MagicMock

import pytest
import torch

from coderv2.engine.recording import CudaRecorder


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """In the place of `torch.cuda`."""
    stand_in = MagicMock()
    stand_in.stream.side_effect = stand_in.graph.side_effect = lambda *_, **__: nullcontext()
    monkeypatch.setattr(torch, "cuda", stand_in)
    return stand_in


class Step:
    """Reads a tensor of its own."""

    def __init__(self) -> None:
        self.own = torch.zeros(3)

    def __call__(self) -> torch.Tensor:
        return self.own + 1


def test_what_a_recorded_step_reads_stays_as_long_as_it_does(cuda: MagicMock) -> None:
    """A graph reads addresses: where each sequence begins lay in memory that others were given."""
    step = Step()
    own, recorded = weakref.ref(step.own), CudaRecorder()(step)
    del step
    gc.collect()
    assert own() is not None
    assert recorded().tolist() == [1, 1, 1]
    cuda.CUDAGraph.return_value.replay.assert_called_once_with()


def test_all_steps_are_recorded_on_one_stream_and_share_memory(cuda: MagicMock) -> None:
    """cuBLAS keeps memory with every stream: 32 streams of 32 MiB are a gigabyte."""
    recorder = CudaRecorder()
    cuda.Stream.assert_not_called()
    for _ in range(3):
        recorder(Step())
    cuda.Stream.assert_called_once_with()
    cuda.graph_pool_handle.assert_called_once_with()
    shared = cuda.graph_pool_handle.return_value, cuda.Stream.return_value
    assert [call.args[1:] for call in cuda.graph.call_args_list] == [shared] * 3
    assert [call.args for call in cuda.stream.call_args_list] == [shared[1:]] * 3
