"""How often each routed expert is chosen: counted while a model runs, kept in a file, and who stays on a GPU by it."""

import json
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from coderv2.errors import BadData, shown
from coderv2.model.batch import Batch
from coderv2.model.config import ModelConfig
from coderv2.model.moe import MixtureOfExperts
from coderv2.model.transformer import Transformer

NAME = "expert_usage.json"
"""In a model's folder."""
_TOGETHER = 4
"""Rows of text in one pass."""


@dataclass(frozen=True)
class Usage:
    """Choices of each expert, by layer; layers without routed experts are not there."""

    counts: Mapping[int, tuple[int, ...]]

    def __add__(self, other: "Usage") -> "Usage":
        """Both together."""
        return self._each(operator.add, other)

    def __sub__(self, other: "Usage") -> "Usage":
        """What came since `other`."""
        return self._each(operator.sub, other)

    def _each(self, pair: Callable[[int, int], int], other: "Usage") -> "Usage":
        pairs = {layer: zip(mine, other.counts[layer], strict=True) for layer, mine in self.counts.items()}
        return Usage({layer: tuple(pair(a, b) for a, b in both) for layer, both in pairs.items()})

    def share(self, layer: int, experts: Sequence[int]) -> float:
        """Of the layer's choices, those that fall on `experts`; of their number where nothing was counted."""
        counts = self.counts[layer]
        whole = sum(counts)
        return sum(counts[e] for e in experts) / whole if whole else len(experts) / len(counts)

    def save(self, path: Path) -> None:
        """As JSON; an older file stays until the new one is whole."""
        partial = path.with_name(f"{path.name}.part")
        partial.write_text(json.dumps({"counts": dict(self.counts)}) + "\n", "utf-8")
        partial.replace(path)


def uniform(config: ModelConfig) -> Usage:
    """Nothing counted yet."""
    return Usage(dict.fromkeys(layers_of_experts(config), (0,) * config.n_routed_experts))


def layers_of_experts(config: ModelConfig) -> list[int]:
    """Numbers of the layers that have routed experts."""
    return [layer for layer in range(config.num_hidden_layers) if not config.is_dense(layer)]


def read(path: Path, config: ModelConfig) -> Usage:
    """What `save` wrote. BadData where the file is something else, or of another model."""
    try:
        given = json.loads(path.read_text("utf-8"))["counts"]
        counts = {int(layer): tuple(map(int, row)) for layer, row in given.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadData(f"{path}: no counts of experts ({shown(str(error))})") from None
    right = list(counts) == layers_of_experts(config)
    if not right or any(len(row) != config.n_routed_experts or min(row) < 0 for row in counts.values()):
        raise BadData(f"{path}: counts of experts, but of another model")
    return Usage(counts)


def mixtures(model: Transformer) -> Iterator[tuple[int, MixtureOfExperts]]:
    """The layers that have routed experts, by number."""
    for layer in layers_of_experts(model.config):
        mixture = model.layers[layer].mlp
        assert isinstance(mixture, MixtureOfExperts)
        yield layer, mixture


def watch(model: Transformer) -> None:
    """Counts from now on, in every pass; the host waits for nothing. An engine made after that records no steps."""
    for _, mixture in mixtures(model):
        mixture.used_E = torch.zeros(model.config.n_routed_experts, dtype=torch.long, device=model.device)


def watched(model: Transformer) -> bool:
    """True where choices are counted."""
    return any(mixture.used_E is not None for _, mixture in mixtures(model))


def counted(model: Transformer) -> Usage:
    """What was counted since `watch`."""
    found = {layer: mixture.used_E for layer, mixture in mixtures(model)}
    return Usage({layer: tuple(used_E.tolist()) for layer, used_E in found.items() if used_E is not None})


def of_choices(choices: Mapping[int, Tensor], E: int) -> Usage:
    """From the experts [T, K] that tokens chose in each layer."""
    rows = {layer: torch.bincount(ids_TK.flatten(), minlength=E) for layer, ids_TK in choices.items()}
    return Usage({layer: tuple(row_E.tolist()) for layer, row_E in rows.items()})


@torch.inference_mode()
def count(model: Transformer, rows: Sequence[Sequence[int]]) -> Usage:
    """A pass over rows of token ids, in which the experts are counted."""
    watch(model)
    nobody = torch.zeros(1, dtype=torch.long, device=model.device)
    for first in range(0, len(rows), _TOGETHER):
        batch = Batch.packed(rows[first : first + _TOGETHER], device=model.device)
        model(replace(batch, logits_rows=nobody))  # logits of all tokens would take more memory than the rest
    return counted(model)
