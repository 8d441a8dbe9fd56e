"""How a step is recorded and repeated on a device, and what the host may ask of that device: when something is done."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol

import torch

Step = Callable[[], Any]
"""Work on the device; what it returns stays the same object where the step is a recorded one."""


class Stream(Protocol):
    """The device's queue: work is done in the order in which it is given, while the host goes on."""

    def enqueue(self, work: Callable[[], object]) -> None:
        """Gives it more."""

    def mark(self) -> Callable[[], None]:
        """What to call to wait until all that was enqueued so far is done."""


class Recorder(Protocol):
    """From a step to something that repeats it."""

    @property
    def stream(self) -> Stream:
        """Where steps run."""

    def __call__(self, step: Step) -> Step:
        """The step, recorded; it has run once then."""


class CudaStream:
    """PyTorch's current stream: whatever is called there is enqueued by being called."""

    def enqueue(self, work: Callable[[], object]) -> None:
        """As `Stream`."""
        work()

    def mark(self) -> Callable[[], None]:
        """As `Stream`."""
        event = torch.cuda.Event()
        event.record()
        return event.synchronize


class CudaGraph:
    """A recorded step; the outputs are always the same tensors."""

    def __init__(self, step: Step, stream: Any, pool: Any) -> None:
        """On a stream of its own, and with temporary memory of `pool`."""
        # What it reads must stay where it is as long as the graph does.
        self._step = step
        # Once beforehand, as PyTorch asks, so that every kernel is compiled.
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # What other threads ask of the device meanwhile, such as a second engine's, concerns nobody here.
        with torch.cuda.graph(self._graph, pool, stream, capture_error_mode="thread_local"):
            self._outputs = step()

    def __call__(self) -> Any:
        """Once more, with what the buffers hold now."""
        self._graph.replay()
        return self._outputs


class CudaRecorder:
    """CUDA graphs, of which no two run at once: they share temporary memory, and the stream they are recorded on.

    With every stream on which it has multiplied cuBLAS keeps memory, on Hopper 32 MiB.
    """

    def __init__(self) -> None:
        self.stream: Stream = CudaStream()

    def __call__(self, step: Step) -> Step:
        """As `Recorder`."""
        return CudaGraph(step, *self._shared)

    @cached_property
    def _shared(self) -> tuple[Any, Any]:
        """Stream and pool, made where they are used: on the GPU, and in the thread, that has the engine."""
        return torch.cuda.Stream(), torch.cuda.graph_pool_handle()


def recorder_for(device: torch.device) -> Recorder | None:
    """How steps are recorded there: on a GPU only."""
    return CudaRecorder() if device.type == "cuda" else None
