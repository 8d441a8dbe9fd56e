"""CUDA graphs without CUDA: what of it is shared, and what must stay."""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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


def test_after_a_capture_that_failed_work_goes_on_and_the_next_begins_afresh(cuda: MagicMock) -> None:
    """The engine's work went on on the stream of the capture, and no step could be recorded any more."""
    current: list[object] = ["the engine's"]

    @contextmanager
    def on(stream: object) -> Iterator[None]:
        before, current[:] = list(current), [stream]
        try:
            yield
        finally:
            current[:] = before

    @contextmanager
    def capture(_: object, pool: object, stream: object, **more: object) -> Iterator[None]:
        before, current[:] = list(current), [stream]
        yield
        current[:] = before  # not where a capture fails

    cuda.stream.side_effect, cuda.graph.side_effect = on, capture
    streams = cuda.Stream.side_effect = [MagicMock(), MagicMock()]
    cuda.graph_pool_handle.side_effect = ["first", "second"]
    recorder, runs = CudaRecorder(), iter([1, RuntimeError("out of memory"), 2, 3])

    def step() -> None:
        if isinstance(found := next(runs), Exception):
            raise found

    with pytest.raises(RuntimeError, match="out of memory"):
        recorder(step)
    assert current == ["the engine's"]
    recorder(step)
    shared = list(zip(("first", "second"), streams, strict=True))
    assert [call.args[1:] for call in cuda.graph.call_args_list] == shared
