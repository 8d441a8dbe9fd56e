"""A model's parameters under the names that checkpoints have for them: one tensor for each expert (spec §3)."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from coderv2.model.config import ModelConfig
from coderv2.model.parallel import Team
from coderv2.model.transformer import Transformer


class Named(Protocol):
    """What a `Transformer` has; the engine's tests bring less than a whole one."""

    @property
    def config(self) -> ModelConfig:
        """Shapes."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The weights by our names."""


def published_tensors(model: Named) -> Iterator[tuple[str, Tensor]]:
    """Every tensor under its published name; each expert of a stack is a view of it (5,291 for Lite)."""
    for name, parameter in model.named_parameters():
        yield from parts(name, parameter.detach())


def parts(name: str, tensor: Tensor, first: int = 0) -> Iterator[tuple[str, Tensor]]:
    """One parameter of ours as the published tensors that it is made of; `first` is the number of a stack's first."""
    stem, _, last = name.rpartition(".")
    if stem.endswith(".experts"):
        for expert, weight in enumerate(tensor, first):
            yield f"model.{stem}.{expert}.{last}.weight", weight
    else:
        yield ("" if name == "lm_head" else "model.") + f"{name}.weight", tensor


def meta_model(config: ModelConfig, team: Team | None = None) -> Transformer:
    """A model of shapes, which costs no memory."""
    with torch.device("meta"):
        return Transformer(config, team)


def parameter_shapes(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Our names and shapes, in the order of `read_parameters`."""
    yield from ((name, tuple(parameter.shape)) for name, parameter in meta_model(config).named_parameters())
