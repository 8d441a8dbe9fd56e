"""What goes where when a device lacks memory for all experts: bytes only; how fast that is, `engine.offload` says.

The device always holds what every token uses: attention, norms, routers, shared experts, dense layers, vocabulary;
beside it the cache and what a pass needs meanwhile. What is left takes routed experts, the most used first; with no
counts whole layers, whose tokens then never leave the device. The rest lies in RAM.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from coderv2.errors import InvalidValue
from coderv2.kernels.formats import FORMATS
from coderv2.kernels.scaled import BLOCK, Kind
from coderv2.model.config import ModelConfig
from coderv2.model.moe import Experts
from coderv2.model.pack import exact_format, slots
from coderv2.model.published import meta_model
from coderv2.model.scale import scalable, scale
from coderv2.model.usage import Usage, layers_of_experts, uniform


@dataclass(frozen=True)
class Sizes:
    """Bytes of a model's weights."""

    fixed: int
    """What is always on the device."""
    shared: int
    """Of that, one layer's shared experts."""
    embedding: int
    """Of that, the table of which a token reads one row."""
    near: int
    """One routed expert on the device."""
    far: int
    """The same in RAM."""
    numbers: int
    """Weights of one routed expert."""
    multiplied: int
    """Weights, not bytes, that every token of a prompt is multiplied with: what is fixed, without vocabulary."""

    def whole(self, config: ModelConfig) -> int:
        """Everything on the device."""
        return self.fixed + self.near * config.n_routed_experts * len(layers_of_experts(config))

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        dtype: torch.dtype,
        kind: Kind | None,
        far: int | None = None,
        fp8_rows: Mapping[str, int] | None = None,
    ) -> "Sizes":
        """Counted on a model without memory. `far` is known of quants: what all routed experts take in RAM.

        What is named in `fp8_rows` stays FP8, so many rows sharing scales.
        """
        stay = fp8_rows or {}
        counts = dict.fromkeys(("fixed", "shared", "embedding", "near", "far", "multiplied"), 0)
        for module, name, ours, shape in slots(meta_model(config)):
            tensor = torch.empty(shape, dtype=dtype, device="meta")
            if ours in stay:
                count = _fp8_bytes(shape, stay[ours])
            else:
                count = scale(tensor, kind, ours).nbytes if kind and scalable(name, tensor) else tensor.nbytes
            if isinstance(module, Experts):
                packed = FORMATS["fp8" if ours in stay else far_format(dtype, kind)]
                counts["far"] += shape[0] * packed.bytes(*shape[1:])
            counts["near" if isinstance(module, Experts) else "fixed"] += count
            counts["shared"] += count if ".shared_experts." in ours else 0
            known = isinstance(module, Experts) or name in ("embed_tokens", "lm_head")
            counts["multiplied"] += 0 if known else tensor.numel()
            counts["embedding"] += count if name == "embed_tokens" else 0
        layers = max(1, len(layers_of_experts(config)))
        counts["far"] = far or counts["far"]
        for place in ("near", "far"):
            counts[place] //= layers * config.n_routed_experts
        counts["shared"] //= layers
        return cls(**counts, numbers=3 * config.hidden_size * config.moe_intermediate_size)


def far_format(dtype: torch.dtype, kind: Kind | None) -> str:
    """How experts lie in RAM, in the CPU kernels' order: as exact as `dtype`, or in as few bits as on the device."""
    return kind or exact_format("experts", dtype)


def _fp8_bytes(shape: tuple[int, ...], rows: int) -> int:
    """Of a matrix or a stack in FP8 on the device: codes, and float32 scales for `rows` rows and 128 columns each."""
    *stack, O, I = shape
    return math.prod(stack) * (O * I + 4 * -(-O // rows) * -(-I // BLOCK))


@dataclass(frozen=True)
class Placement:
    """Which routed experts lie on the device."""

    near: Mapping[int, tuple[int, ...]]
    """Of each layer with experts the numbers of those, ascending."""
    E: int
    """Experts of a layer."""
    all_in_ram: bool = False
    """Those on the device lie in RAM too, so that others can take their places (`engine.moving`)."""

    def far(self, layer: int) -> tuple[int, ...]:
        """Those of a layer that lie in RAM, ascending."""
        return tuple(sorted(set(range(self.E)) - set(self.near[layer])))

    @property
    def count(self) -> int:
        """Experts on the device."""
        return sum(map(len, self.near.values()))

    @property
    def total(self) -> int:
        """Experts in both places."""
        return self.E * len(self.near)

    @property
    def whole(self) -> bool:
        """True where nothing is in RAM."""
        return self.count == self.total


def chosen(
    config: ModelConfig, count: int, usage: Usage | None = None, *, all_in_ram: bool = False
) -> Placement:
    """The first `count` experts on the device: the most used, of equals those of the earlier layer.

    Where they are to move later, of equals as many in each layer: one without places there gets none.
    """
    usage = usage or uniform(config)
    ranked = sorted(
        ((layer, expert) for layer, counts in usage.counts.items() for expert in range(len(counts))),
        key=lambda place: (-usage.share(place[0], place[1:]), place[::-1] if all_in_ram else place),
    )
    near: dict[int, list[int]] = {layer: [] for layer in usage.counts}
    for layer, expert in ranked[:count]:
        near[layer].append(expert)
    return Placement(
        {layer: tuple(sorted(experts)) for layer, experts in near.items()},
        config.n_routed_experts,
        all_in_ram,
    )


@dataclass(frozen=True)
class Demand:
    """What a device must have beside weights."""

    token: int
    """Bytes of one token in the cache."""
    tokens: int
    """Those that could be wanted at once."""
    least: int
    """Without room for so many tokens nothing useful can be asked."""
    work: int
    """Bytes that a pass needs meanwhile, and that stay unused."""
    recorded: int = 0
    """Those that recorded decode steps keep beside; with experts in RAM none is recorded."""


@dataclass(frozen=True)
class Plan:
    """What goes where, in bytes."""

    budget: int
    """The device's memory that may be taken."""
    sizes: Sizes
    cache_tokens: int
    cache: int
    work: int
    placement: Placement

    @property
    def on_device(self) -> int:
        """All that the device holds: never above the budget."""
        return self.sizes.fixed + self.cache + self.work + self.near

    @property
    def near(self) -> int:
        """Experts on the device."""
        return self.placement.count * self.sizes.near

    @property
    def in_ram(self) -> int:
        """Experts there."""
        placement = self.placement
        layers = [layer for layer in placement.near if placement.far(layer)]
        count = placement.E * len(layers) if placement.all_in_ram else placement.total - placement.count
        return count * self.sizes.far


def plan(
    config: ModelConfig,
    sizes: Sizes,
    demand: Demand,
    budget: int,
    usage: Usage | None = None,
    *,
    all_in_ram: bool = False,
) -> Plan:
    """The plan for a device of which `budget` bytes are free.

    Where all experts fit beside the least cache, they come first; else a quarter of what weights and work leave is the
    cache's. InvalidValue where not even what every token uses finds room.
    """
    room = budget - sizes.fixed - demand.work
    least = demand.least * demand.token
    if room < least:
        raise InvalidValue(_too_little(sizes, demand, budget), param="gpu_memory")
    total = config.n_routed_experts * len(layers_of_experts(config))
    most = demand.tokens * demand.token
    if room - demand.recorded - total * sizes.near >= least:
        count, recorded = total, demand.recorded
    else:
        reserved = min(max(room // 4, least), most)
        count, recorded = min((room - reserved) // sizes.near, total - 1) if total else 0, 0
    tokens = min(demand.tokens, (room - recorded - count * sizes.near) // demand.token)
    placement = chosen(config, count, usage, all_in_ram=all_in_ram)
    return Plan(budget, sizes, tokens, tokens * demand.token, demand.work + recorded, placement)


def _too_little(sizes: Sizes, demand: Demand, budget: int) -> str:
    parts = {
        "attention, shared experts and vocabulary": sizes.fixed,
        "a pass": demand.work,
        f"a cache of {demand.least:,} tokens": demand.least * demand.token,
    }
    named = ", ".join(f"{count / 1e9:.1f} GB for {what}" for what, count in parts.items())
    needed = math.ceil(sum(parts.values()) / 1e8) / 10
    return (
        f"{budget / 1e9:.1f} GB of GPU memory do not hold even what every token uses, {needed:.1f} GB: {named}; with "
        "the routed experts in RAM already. Weights in fewer bits (quantization fp8 or int4), a smaller "
        "max_num_batched_tokens or max_model_len, or the CPU as device are ways out"
    )
