"""Wide weights into quantised ones, one layer in memory at a time, and judged on the way.

Three streams of hidden states go from layer to layer: text to calibrate with, through the quantised layers, so that
each learns what really comes in; and held-out text through the wide layers and through the quantised ones, which differ
at the end by what is reported. No model needs to fit into memory whole, in either form.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from coderv2.kernels.formats import Weight
from coderv2.kernels.ops import Ops
from coderv2.kernels.packing import pack
from coderv2.kernels.routing import choose
from coderv2.model.attention import AttentionPlan
from coderv2.model.batch import Batch
from coderv2.model.calibrate import calibrated_layer
from coderv2.model.calibration import Rows
from coderv2.model.config import ModelConfig
from coderv2.model.moe import routing
from coderv2.model.observe import Notes, watched
from coderv2.model.pack import exact_format, place, put, slots, take
from coderv2.model.packed_file import Writer
from coderv2.model.published import meta_model
from coderv2.model.quality import compared
from coderv2.model.transformer import Layer, Transformer

FORMATS = ("int4", "int8", "fp8", "bf16")
_EIGHT_BITS = ("embed_tokens", "lm_head", "kv_a_proj_with_mqa", "kv_b_proj")
"""What stays at eight bits among int4: few numbers that many others hang on."""
_TOGETHER = 4
"""Rows in one pass."""
_LOGITS = 256
"""Tokens whose logits are there at a time."""


class Source(Protocol):
    """Where parameters come from, one at a time."""

    @property
    def config(self) -> ModelConfig:
        """Of the model."""

    def fill(self, module: nn.Module, name: str, ours: str, dtype: torch.dtype) -> None:
        """Puts a parameter's values into its module, as a plain tensor."""


def format_for(ours: str, weights: str) -> str:
    """The format of a parameter in a model of `weights`; why these stay wide: docs/guides/quantise.md."""
    if ours.endswith(".mlp.gate"):
        return "f32"
    return "int8" if weights == "int4" and ours.endswith(_EIGHT_BITS) else weights


@dataclass(frozen=True)
class LayerError:
    """How far a quantised layer's contribution is from the wide one's, relative to that."""

    layer: int
    own: float
    """Given the same inputs."""
    carried: float
    """Given what came through the quantised layers before it."""


@dataclass(frozen=True)
class Quality:
    """Quantised against wide weights on held-out text."""

    kl: float
    """Mean KL divergence of the next token's distribution, in nats."""
    perplexity: float
    perplexity_wide: float
    same_first: float
    """Share of places where both hold the same token likeliest."""
    tokens: int
    layers: list[LayerError]


class Stream:
    """Rows of text on their way through the layers."""

    def __init__(self, model: Transformer, rows: Sequence[Sequence[int]]) -> None:
        together = [rows[i : i + _TOGETHER] for i in range(0, len(rows), _TOGETHER)]
        self.batches = [Batch.packed(some) for some in together]
        self.plans: list[AttentionPlan] = [model.plan(batch) for batch in self.batches]
        self.x: list[Tensor] = []

    def embed(self, weight: Weight) -> None:
        """The first hidden states."""
        self.x = [Ops.embedding(batch.token_ids_T, weight) for batch in self.batches]

    def through(self, layer: Layer, notes: Notes | None = None) -> list[Tensor]:
        """What comes out of a layer; the stream stays where it is."""
        outputs = []
        for x_TD, batch, plan in zip(self.x, self.batches, self.plans, strict=True):
            seen = batch if notes is None else watched(batch, notes)
            outputs.append(layer(x_TD, seen, replace(plan, ops=seen.ops)))
        return outputs


class Quantiser:
    """Quantises one model into a folder."""

    def __init__(
        self, source: Source, weights: str, rows: Rows | None, dtype: torch.dtype, *, calibrated: bool = True
    ) -> None:
        """int4 is rounded to nearest where it is not `calibrated`; other formats always are."""
        self._source, self._weights, self._dtype = source, weights, dtype
        self._model = meta_model(source.config)
        self._calibrates = calibrated and weights == "int4"
        self.choices: dict[int, Tensor] = {}
        """Where it calibrates: of each layer with experts the experts that the text's tokens chose, [T, K]."""
        source.fill(self._model, "norm", "norm", torch.float32)
        self._learn = Stream(self._model, rows.learn if rows and self._calibrates else [])
        self._wide = Stream(self._model, rows.judge if rows else [])
        self._ours = Stream(self._model, rows.judge if rows else [])

    @torch.no_grad()
    def run(self, folder: Path, *, progress: bool = False) -> Quality | None:
        """Writes `model.packed`; what the weights are worth, where there is text to judge them on."""
        with Writer(folder, self._source.config) as writer:
            self._embed(writer)
            layers = range(self._source.config.num_hidden_layers)
            bar = tqdm(layers, desc="quantising", unit="layer", disable=None if progress else True)
            errors = [error for i in bar if (error := self._layer(i, writer)) is not None]
            return self._finish(writer, errors)

    def _embed(self, writer: Writer) -> None:
        wide, ours = self._both("embed_tokens")
        writer.add("embed_tokens", ours)
        self._wide.embed(wide)
        for stream in (self._learn, self._ours):
            stream.embed(ours)

    def _both(self, name: str) -> tuple[Weight, Weight]:
        """A matrix of the model itself, wide and quantised."""
        self._source.fill(self._model, name, name, self._dtype)
        tensor = self._model.get_parameter(name).detach()
        self._model.register_parameter(name, None)
        return pack(tensor, exact_format(name, self._dtype)), pack(tensor, format_for(name, self._weights))

    def _layer(self, i: int, writer: Writer) -> LayerError | None:
        plain = self._plain_layer(i)
        wide = self._packed_layer(plain, i, lambda ours: exact_format(ours, self._dtype), {})
        ours = self._packed_layer(
            plain, i, lambda ours: format_for(ours, self._weights), self._calibrated(i, plain, wide)
        )
        del plain
        error = self._advance(i, wide, ours)
        for stem, module in ours.named_modules():
            for name, value in take(module).items():
                writer.add(".".join(filter(None, ("layers", str(i), stem, name))), value)
        return error

    def _plain_layer(self, i: int) -> Layer:
        layer = self._empty_layer(i)
        for module, name, ours, _ in slots(layer):
            self._source.fill(module, name, f"layers.{i}.{ours}", self._dtype)
        return layer

    def _empty_layer(self, i: int) -> Layer:
        with torch.device("meta"):
            return Layer(self._source.config, i)

    def _packed_layer(
        self, plain: Layer, i: int, format_of: Callable[[str], str], calibrated: Mapping[str, Weight]
    ) -> Layer:
        layer = self._empty_layer(i)
        for module, name, ours, _ in slots(layer):
            if ours in calibrated:
                put(module, name, calibrated[ours])
            else:
                place(module, name, plain.get_parameter(ours).detach(), format_of(f"layers.{i}.{ours}"))
        return layer

    def _calibrated(self, i: int, plain: Layer, wide: Layer) -> dict[str, Weight]:
        if not self._learn.x:
            return {}
        notes = Notes()
        self._learn.through(wide, notes)
        if notes.scores_TE:
            config = self._source.config
            _, self.choices[i] = choose(torch.cat(notes.scores_TE), routing(config))
        return calibrated_layer(plain, wide, notes, self._source.config)

    def _advance(self, i: int, wide: Layer, ours: Layer) -> LayerError | None:
        """All streams through the layer; how far the two kinds of weights are apart there."""
        if self._learn.x:
            self._learn.x = self._learn.through(ours)
        if not self._wide.x:
            return None
        before, after = self._wide.x, self._wide.through(wide)
        own = _distance(self._wide.through(ours), after, before)
        self._wide.x, self._ours.x = after, self._ours.through(ours)
        return LayerError(i, own, _distance(self._ours.x, after, before))

    def _finish(self, writer: Writer, layers: list[LayerError]) -> Quality | None:
        writer.add("norm", self._model.norm.detach())
        wide, ours = self._both("lm_head")
        writer.add("lm_head", ours)
        if not self._wide.x:
            return None
        return self._quality(wide, ours, layers)

    def _quality(self, wide: Weight, ours: Weight, layers: list[LayerError]) -> Quality:
        sums = torch.zeros(4, dtype=torch.float64)
        count = 0
        for batch, x_TD, y_TD in zip(self._wide.batches, self._wide.x, self._ours.x, strict=True):
            targets_T, followed = batch.token_ids_T[1:], torch.ones(len(x_TD) - 1, dtype=torch.bool)
            followed[[end - 1 for end in batch.starts[1:-1]]] = (
                False  # a row's last token has no next one here
            )
            for rows in followed.nonzero()[:, 0].split(_LOGITS):
                p = self._log_probabilities(x_TD[rows], wide)
                q = self._log_probabilities(y_TD[rows], ours)
                sums += compared(p, q, targets_T[rows])
                count += len(rows)
        kl, nats_wide, nats, same = (sums / count).tolist()
        return Quality(kl, math.exp(nats), math.exp(nats_wide), same, count, layers)

    def _log_probabilities(self, x_TD: Tensor, head: Weight) -> Tensor:
        normed_TD = Ops.rms_norm(x_TD, self._model.norm, self._source.config.rms_norm_eps)
        logs_TW: Tensor = Ops.linear(normed_TD, head).float().log_softmax(-1)
        return logs_TW


def _distance(ours: Sequence[Tensor], wide: Sequence[Tensor], before: Sequence[Tensor]) -> float:
    """Of what the layer adds, relative to that."""
    off = sum(float((a - b).square().sum()) for a, b in zip(ours, wide, strict=True))
    added = sum(float((b - x).square().sum()) for b, x in zip(wide, before, strict=True))
    return math.sqrt(off / added) if added else 0.0
