"""Experts into their two places: a device's stack of the chosen ones, and the packed rest in RAM."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from coderv2.kernels.formats import Weight
from coderv2.kernels.memory import empty_bytes
from coderv2.kernels.packing import pack, unpack, unpack_fp8
from coderv2.kernels.scaled import Kind, Scaled, Stored
from coderv2.model.attention import LatentAttention
from coderv2.model.config import ModelConfig
from coderv2.model.moe import MATRICES, Experts, ExpertsInRam
from coderv2.model.pack import set_weight, slots, tensor_of
from coderv2.model.placement import Placement, far_format
from coderv2.model.published import meta_model
from coderv2.model.scale import place_scaled
from coderv2.model.transformer import Transformer

PIECE = 256
"""Rows of a matrix that are unpacked at a time when an expert moves: half a million numbers of Lite's."""


def layer_of(ours: str) -> int:
    """The number in a parameter's name."""
    return int(ours.split(".")[1])


class Divider:
    """Puts the parameters of one model where its placement wants them; they come from RAM."""

    def __init__(
        self,
        placement: Placement,
        device: torch.device,
        dtype: torch.dtype,
        kind: Kind | None = None,
        stored: Mapping[str, Stored] | None = None,
        borrowed: bool = False,
    ) -> None:
        """What is named in `stored` is FP8 and stays so on the device.

        Values that are `borrowed` (a mapped file's) are copied where they stay.
        """
        self._placement, self._device, self._kind = placement, device, kind
        self._stored, self._borrowed = stored or {}, borrowed
        self.dtype = dtype
        """Of activations, and of what is not rounded to a `kind`."""

    def stays(self, ours: str) -> bool:
        """Whether a parameter keeps the FP8 numbers of its checkpoint."""
        return ours in self._stored

    def put(self, module: nn.Module, name: str, ours: str, value: Tensor | Weight) -> None:
        """One parameter's values: a tensor, or routed experts that are packed already and stay so in RAM."""
        if isinstance(module, Experts) and self._placement.far(layer_of(ours)):
            self._divide(module, name, ours, value)
        else:
            self._to_device(module, name, ours, value)

    def _to_device(self, module: nn.Module, name: str, ours: str, value: Tensor | Weight) -> None:
        if isinstance(value, Weight) and self.stays(ours):
            module._parameters.pop(name, None)
            setattr(module, name, self._stored[ours].scaled(*unpack_fp8(value)).to(self._device))
            return
        tensor = unpack(value) if isinstance(value, Weight) else value
        there = tensor.to(self.dtype).to(self._device)
        vars(module).pop(name, None)
        if self._kind is None or not there.numel():
            module._parameters.pop(name, None)
            module.register_parameter(name, nn.Parameter(there, requires_grad=False))
        else:
            place_scaled(module, name, there, self._kind)

    def _divide(self, experts: Experts, name: str, ours: str, value: Tensor | Weight) -> None:
        layer, whole = layer_of(ours), self._placement.all_in_ram
        near = self._placement.near[layer]
        far = tuple(range(self._placement.E)) if whole else self._placement.far(layer)
        if experts.in_ram is None:
            experts.in_ram = ExpertsInRam(near, value.shape[0], self._device, all_here=whole)
        mine: Tensor | Weight
        if isinstance(value, Weight):
            mine = _some(value, near) if near else torch.empty(0, *value.shape[1:])
            packed = self._kept(value, far)
        else:
            mine, packed = value[list(near)], pack(value[list(far)], far_format(value.dtype, self._kind))
        set_weight(experts.in_ram, name, packed)
        self._to_device(experts, name, ours, mine)

    def _kept(self, stack: Weight, experts: Sequence[int]) -> Weight:
        """Of a stack the given ones, to stay in RAM: in memory that streams fast, and no borrowed one."""
        if len(experts) == stack.shape[0] and not self._borrowed:
            return stack
        data = empty_bytes(len(experts) * stack.data.shape[1]).view(len(experts), -1)
        torch.index_select(stack.data, 0, torch.tensor(experts), out=data)
        return Weight(stack.format, (len(experts), *stack.shape[1:]), data)


def move(experts: Experts, expert: int, place: int) -> Iterator[None]:
    """An expert that lies in RAM takes a place of the device's stack, some rows at each `next`; the last seats it.

    The one that had the place lies in RAM too, so nothing is written back, and moving to and fro loses nothing.
    """
    ram = experts.in_ram
    assert ram is not None
    assert ram.all_here
    brought: list[tuple[Tensor, list[Tensor]]] = []
    for name in MATRICES:
        stack = getattr(experts, name)
        stored = Stored(stack.span[0]) if isinstance(stack, Scaled) else None
        tensors = _tensors(stack)
        pieces: list[tuple[Tensor, ...]] = []
        for rows_1OI in _pieces(_some(getattr(ram, name), [expert])):
            piece = stored.scaled(*unpack_fp8(rows_1OI)) if stored else unpack(rows_1OI)
            pairs = zip(_tensors(piece), tensors, strict=True)
            pieces.append(tuple(part[0].to(there.dtype).to(there.device) for part, there in pairs))
            yield
        brought += zip(tensors, map(list, zip(*pieces, strict=True)), strict=True)
    for tensor, parts in brought:
        tensor[place] = torch.cat(parts)
    ram.seat(expert, place)


def _tensors(stack: Tensor | Scaled) -> tuple[Tensor, ...]:
    """What a stack is made of, row after row; codes as bytes."""
    return (stack.codes.view(torch.uint8), stack.scales) if isinstance(stack, Scaled) else (stack,)


def _pieces(weight: Weight) -> Iterator[Weight]:
    _, O, I = weight.shape
    for first in range(0, O, PIECE):
        yield weight.part([range(1), range(first, min(first + PIECE, O)), range(I)])


def _taken(module: nn.Module, name: str) -> Tensor | Weight:
    """A parameter's values, out of their module, so that their memory can go."""
    value = getattr(module, name)
    if isinstance(value, Weight):
        delattr(module, name)
        return value
    module.register_parameter(name, None)
    tensor: Tensor = value.detach()
    return tensor


def _some(stack: Weight, experts: Sequence[int]) -> Weight:
    """Of a stack [E, O, I] the given ones; the stack itself where these are all."""
    if len(experts) == stack.shape[0]:
        return stack
    return Weight(stack.format, (len(experts), *stack.shape[1:]), stack.data[list(experts)])


class Source(Protocol):
    """Where parameters come from, one at a time."""

    @property
    def config(self) -> ModelConfig:
        """Of the model."""

    def fill(self, module: nn.Module, name: str, ours: str, dtype: torch.dtype) -> None:
        """Puts a parameter's values into its module, as a plain tensor."""

    def fill_packed(self, module: nn.Module, name: str, ours: str) -> None:
        """The same in kernel order, as it lies."""


@torch.no_grad()
def fill(source: Source, divider: Divider, *, packed: bool, progress: bool = False) -> Transformer:
    """A source's weights in their two places; with `packed` experts come as they lie. Memory: one stack twice.

    FP8 matrices that stay so come as they lie too.
    """
    model = meta_model(source.config)
    bar = tqdm(slots(model), desc="loading", unit="tensor", disable=None if progress else True)
    for module, name, ours, _ in bar:
        if (packed and isinstance(module, Experts)) or divider.stays(ours):
            source.fill_packed(module, name, ours)
        else:
            source.fill(module, name, ours, divider.dtype)
        divider.put(module, name, ours, _taken(module, name))
    return model.eval().requires_grad_(False)


@torch.no_grad()
def divide(model: Transformer, divider: Divider) -> Transformer:
    """A packed model into its two places, one parameter after another: what is not an expert in RAM is unpacked."""
    for _, name, ours, _ in slots(meta_model(model.config)):
        module = model.get_submodule(ours.rpartition(".")[0])
        whole = isinstance(module, Experts)
        value = _taken(module, name) if whole else tensor_of(module, name, torch.float32)
        divider.put(module, name, ours, value)
        if isinstance(module, LatentAttention) and name == "kv_b_proj":
            module.key_up = module.key_absorb = module.value_up = None
    return model
