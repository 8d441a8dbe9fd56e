"""A layer's experts in two places: some on the pass's device, the others packed in RAM and computed by our CPU kernels.

Both work at the same time. The tokens' rows set out for RAM; then the device is handed all else that the layer has to
do, its own experts and the shared ones; only then does the host wait for the rows, compute, and send back what came
out. What crosses is activations, some kilobytes for each token, and never a weight.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from coderv2.kernels import native
from coderv2.kernels.native import FeedForward


class Link(Protocol):
    """The way between a device and RAM."""

    def leave(self, *tensors: Tensor) -> Callable[[], list[Tensor]]:
        """Sets the copies out; the call that waits until they are in RAM brings them."""

    def memory(self, *shape: int) -> Tensor:
        """Float32 in RAM that can be sent without a detour."""

    def send(self, rows_TD: Tensor) -> Tensor:
        """The same on the device; whoever uses it there waits by itself."""


class CudaLink:
    """To and from a GPU: page-locked memory, and the host waits for nothing but the copies that it needs.

    All runs on the current stream: a copy that leaves waits for what was launched before it and not for what comes
    after, so the rows arrive while the device goes on.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def leave(self, *tensors: Tensor) -> Callable[[], list[Tensor]]:
        """As `Link`."""
        # A copy to the CPU that does not block is given page-locked memory, which stays its own until it is done.
        copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        done = torch.cuda.Event()
        done.record()

        def arrived() -> list[Tensor]:
            done.synchronize()
            return copies

        return arrived

    def memory(self, *shape: int) -> Tensor:
        """As `Link`."""
        return torch.empty(*shape, pin_memory=True)

    def send(self, rows_TD: Tensor) -> Tensor:
        """As `Link`."""
        return rows_TD.to(self._device, non_blocking=True)


class NoLink:
    """Where the device is the CPU itself."""

    def leave(self, *tensors: Tensor) -> Callable[[], list[Tensor]]:
        """As `Link`."""
        return lambda: list(tensors)

    def memory(self, *shape: int) -> Tensor:
        """As `Link`."""
        return torch.empty(*shape)

    def send(self, rows_TD: Tensor) -> Tensor:
        """As `Link`."""
        return rows_TD


def link(device: torch.device) -> Link:
    """The way to `device`."""
    return CudaLink(device) if device.type == "cuda" else NoLink()


def mixture(
    ops: Any,
    x_TD: Tensor,
    weights_TK: Tensor,
    near_TK: Tensor,
    far_TK: Tensor,
    near: Any,
    shared: Any,
    far: FeedForward,
    link: Link,
) -> Tensor:
    """A token's routed experts, weighted, plus the shared network, shape [T, D].

    `near_TK` numbers the experts within the device's stacks `near`, (gate, up, down), `far_TK` within those in RAM;
    -1 is for those of the other place. `ops` compute on the device; with `near` None it has no routed expert.
    """
    arrived = link.leave(x_TD, weights_TK, far_TK)
    own_TD: Tensor = (
        ops.swiglu(x_TD, *shared) if near is None else ops.mixture(x_TD, weights_TK, near_TK, near, shared)
    )
    rows_TD, shares_TK, ids_TK = arrived()
    if not bool((ids_TK >= 0).any()):
        return own_TD
    out_TD = native.mixture(rows_TD, shares_TK, ids_TK, far, None, out=link.memory(*rows_TD.shape))
    return own_TD + link.send(out_TD).to(own_TD.dtype)
