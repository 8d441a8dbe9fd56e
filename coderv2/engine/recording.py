"""How a step is recorded and repeated on a device, and what the host may ask of that device: when something is done."""

from collections.abc import Callable
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
        self._graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        stream.wait_stream(current)
        # Around both, since a capture that fails leaves its stream the current one.
        with torch.cuda.stream(stream):
            step()  # once beforehand, as PyTorch asks, so that every kernel is compiled
            # What other threads ask of the device meanwhile, such as a second engine's, concerns nobody here.
            with torch.cuda.graph(self._graph, pool, stream, capture_error_mode="thread_local"):
                self._outputs = step()
        current.wait_stream(stream)

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
        self._shared: tuple[Any, Any] | None = None
        """Stream and memory pool, made where they are used: on the GPU, and in the thread, that has the engine."""

    def __call__(self, step: Step) -> Step:
        """As `Recorder`."""
        self._shared = self._shared or (torch.cuda.Stream(), torch.cuda.graph_pool_handle())
        try:
            return CudaGraph(step, *self._shared)
        except BaseException:
            self._shared = None  # for PyTorch the pool of a capture that failed is in use from then on
            raise


def recorder_for(device: torch.device) -> Recorder | None:
    """How steps are recorded there: on a GPU only."""
    return CudaRecorder() if device.type == "cuda" else None
