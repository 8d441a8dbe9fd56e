"""DeepSeek-V2: embedding, layers of latent attention and (mixed) feed-forward, logits."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from coderv2.kernels.cpu import kernels
from coderv2.kernels.formats import Weight
from coderv2.kernels.scaled import Scaled
from coderv2.model import fused
from coderv2.model.attention import AttentionPlan, LatentAttention, slots_of, split_forms
from coderv2.model.batch import Batch
from coderv2.model.config import ModelConfig
from coderv2.model.moe import ExpertsInRam, MixtureOfExperts, Mlp
from coderv2.model.parallel import Split, Team
from coderv2.model.rope import inverse_frequencies, rotary_table


class Layer(nn.Module):
    """`x + attention(norm(x))`, then `x + feed-forward(norm(x))`."""

    def __init__(self, config: ModelConfig, index: int, split: Split | None = None) -> None:
        """Whole, or as one rank of `split` has it."""
        super().__init__()
        split = split or Split()
        self.eps = config.rms_norm_eps
        local = split.local(config)
        self.input_layernorm = nn.Parameter(torch.empty(config.hidden_size))
        self.self_attn = LatentAttention(local, index)
        self.post_attention_layernorm = nn.Parameter(torch.empty(config.hidden_size))
        dense = config.is_dense(index)
        self.mlp = Mlp(config, local.intermediate_size) if dense else MixtureOfExperts(config, split)

    def forward(self, x_TD: Tensor, batch: Batch, plan: AttentionPlan) -> Tensor:
        """[T, D]."""
        ops, team = batch.ops, plan.team
        attended_TD = self.self_attn(ops.rms_norm(x_TD, self.input_layernorm, self.eps), batch, plan)
        x_TD = x_TD + team.after_attention(attended_TD)
        normed_TD = ops.rms_norm(x_TD, self.post_attention_layernorm, self.eps)
        return x_TD + self.fed_forward(normed_TD, batch, team, plan.counts)

    def fed_forward(self, x_TD: Tensor, batch: Batch, team: Team, counts: Sequence[int]) -> Tensor:
        """The ranks' feed-forward together; `counts` are their tokens where each has its own."""
        return team.own(team.sum(self.mlp(team.everyone(x_TD, counts), batch)), counts)


class Transformer(nn.Module):
    """The whole model; parameters carry the published names (`weights` stacks the experts).

    Made on the meta device under `torch.device("meta")` it costs no memory, which is how a checkpoint is checked
    before it is read. One rank of a `team` has its part of every weight; alone by default.
    """

    def __init__(self, config: ModelConfig, team: Team | None = None) -> None:
        super().__init__()
        self.team = team or Team()
        split = self.team.split
        words = split.local(config).vocab_size
        self.config = config
        self.embed_tokens = nn.Parameter(torch.empty(words, config.hidden_size))
        self.layers = nn.ModuleList(Layer(config, i, split) for i in range(config.num_hidden_layers))
        self.norm = nn.Parameter(torch.empty(config.hidden_size))
        self.lm_head = nn.Parameter(torch.empty(words, config.hidden_size))
        self._inv_freq: Tensor | None = None
        self._fused: fused.FusedLayers | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations: that of the weights, or float32 where these are packed."""
        return self.norm.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.norm.device

    @property
    def packed(self) -> bool:
        """True where the weights are in kernel order."""
        return isinstance(self.embed_tokens, Weight)

    @property
    def cache_dtype(self) -> torch.dtype:
        """Of a cache that loses no more than the weights do: packed ones other than float32 go with bfloat16."""
        exact = not self.packed or all(weight.format.name == "f32" for weight in self.weights())
        return self.dtype if exact else torch.bfloat16

    @property
    def plain(self) -> bool:
        """True where all weights are parameters: none is packed, rounded or in RAM beside a device."""
        return not any(True for _ in self._special())

    @property
    def recordable(self) -> bool:
        """True where a pass asks nothing of the host, so that a graph can hold it: not with experts in RAM."""
        return not any(isinstance(module, ExpertsInRam) for module in self.modules())

    def weights_changed(self) -> None:
        """To be told when packed weights were put in the place of others."""
        self._fused = None

    def weights(self) -> Iterator[Weight]:
        """The packed ones."""
        yield from (value for _, value in self._special() if isinstance(value, Weight))

    def _special(self) -> Iterator[tuple[str, Weight | Scaled]]:
        for stem, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Weight | Scaled):
                    yield f"{stem}.{name}", value

    def stored(self) -> Iterator[tuple[str, Tensor]]:
        """All that makes this model's numbers, weights in other forms as bytes."""
        yield from ((name, parameter.detach()) for name, parameter in self.named_parameters())
        for name, value in self._special():
            if isinstance(value, Weight):
                yield f"{name} {value.format.name} {value.shape}", value.data
            else:
                yield f"{name} {value.kind} {value.shape} {value.span}", value.codes.view(torch.uint8)
                yield f"{name} scales", value.scales

    def forward(self, batch: Batch) -> Tensor:
        """Float32 logits of `batch.logits_rows`, or of every row: [rows, W]."""
        plan, ops = self.plan(batch), batch.ops
        x_TD = self._through_layers(self._embedded(batch), batch, plan)
        if batch.logits_rows is not None:
            x_TD = x_TD[batch.logits_rows]
        x_TD = ops.rms_norm(x_TD, self.norm, self.config.rms_norm_eps)
        return self.team.all_words(ops.linear(x_TD, self.lm_head).float())

    def assist(self) -> None:
        """A pass of a rank that has no tokens, where each has its own: its part of the others' feed-forwards."""
        counts, nothing = self.team.counts(0), Batch.empty(self.device)
        nothing_0D = torch.empty(0, self.config.hidden_size, dtype=self.dtype, device=self.device)
        for layer in self.layers if any(counts) else ():
            assert isinstance(layer, Layer)
            layer.fed_forward(nothing_0D, nothing, self.team, counts)

    def _through_layers(self, x_TD: Tensor, batch: Batch, plan: AttentionPlan) -> Tensor:
        if self._fused is None and self._fusible:
            self._fused = fused.FusedLayers(self.config, list(self.layers))
        if self._fused is not None and self._fused.takes(batch, plan):
            return self._fused.run(x_TD, batch, plan)
        for layer in self.layers:
            x_TD = layer(x_TD, batch, plan)
        return x_TD

    @property
    def _fusible(self) -> bool:
        whole = self.packed and self.team.split.size == 1
        return whole and kernels is not None and self.recordable

    def _embedded(self, batch: Batch) -> Tensor:
        own_T, foreign_T = self.team.own_words(batch.token_ids_T, self.embed_tokens.shape[0])
        x_TD: Tensor = batch.ops.embedding(own_T, self.embed_tokens)
        return x_TD if foreign_T is None else self.team.sum(x_TD.masked_fill(foreign_T[:, None], 0))

    def plan(self, batch: Batch) -> AttentionPlan:
        """What all layers of a pass share."""
        if self._inv_freq is None or self._inv_freq.device != self.device:
            self._inv_freq = inverse_frequencies(self.config, self.device)
        cos_TR2, sin_TR2 = rotary_table(self.config, batch.positions_T, self._inv_freq)
        wide, narrow = split_forms(batch, self.config)
        spans = batch.spans
        if spans is None and narrow is not None:
            spans = batch.ops.spans(narrow.starts, narrow.lengths, narrow.page_tables)
        counts = batch.counts or self.team.counts(batch.token_ids_T.shape[0])
        return AttentionPlan(
            batch.ops,
            cos_TR2,
            sin_TR2,
            expanded=wide,
            expanded_slots_S=slots_of(wide, batch.cache),
            absorbed=narrow,
            spans=spans or {},
            team=self.team,
            counts=counts,
        )

    def initialise(self, std: float, seed: int) -> "Transformer":
        """Fills every weight: norms with 1, the rest normal with `std` (V2 report §3.1.2 uses 0.006)."""
        generator = torch.Generator(self.device).manual_seed(seed)
        fill: dict[bool, Callable[[Tensor], Tensor]] = {
            True: lambda p: p.fill_(1.0),
            False: lambda p: p.normal_(0.0, std, generator=generator),
        }
        with torch.no_grad():
            for parameter in self.parameters():
                fill[parameter.dim() == 1](parameter)
        return self
