"""DeepSeek-V2: embedding, layers of latent attention and (mixed) feed-forward, logits."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from coderv2.kernels.formats import Weight
from coderv2.model.attention import AttentionPlan, LatentAttention, split_forms
from coderv2.model.batch import Batch
from coderv2.model.config import ModelConfig
from coderv2.model.moe import MixtureOfExperts, Mlp
from coderv2.model.rope import inverse_frequencies, rotary_table


class Layer(nn.Module):
    """`x + attention(norm(x))`, then `x + feed-forward(norm(x))`."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.eps = config.rms_norm_eps
        self.input_layernorm = nn.Parameter(torch.empty(config.hidden_size))
        self.self_attn = LatentAttention(config, index)
        self.post_attention_layernorm = nn.Parameter(torch.empty(config.hidden_size))
        dense = config.is_dense(index)
        self.mlp = Mlp(config, config.intermediate_size) if dense else MixtureOfExperts(config)

    def forward(self, x_TD: Tensor, batch: Batch, plan: AttentionPlan) -> Tensor:
        """[T, D]."""
        ops = batch.ops
        x_TD = x_TD + self.self_attn(ops.rms_norm(x_TD, self.input_layernorm, self.eps), batch, plan)
        normed_TD = ops.rms_norm(x_TD, self.post_attention_layernorm, self.eps)
        out_TD: Tensor = self.mlp(normed_TD, batch)
        return x_TD + out_TD


class Transformer(nn.Module):
    """The whole model; parameters carry the published names (`weights` stacks the experts).

    Made on the meta device under `torch.device("meta")` it costs no memory, which is how a checkpoint is checked
    before it is read.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = nn.Parameter(torch.empty(config.hidden_size))
        self.lm_head = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self._inv_freq: Tensor | None = None

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

    def weights(self) -> Iterator[Weight]:
        """The packed ones."""
        for module in self.modules():
            yield from (value for value in vars(module).values() if isinstance(value, Weight))

    def stored(self) -> Iterator[tuple[str, Tensor]]:
        """All that makes this model's numbers, packed weights as bytes."""
        yield from ((name, parameter.detach()) for name, parameter in self.named_parameters())
        for stem, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Weight):
                    yield f"{stem}.{name} {value.format.name} {value.shape}", value.data

    def forward(self, batch: Batch) -> Tensor:
        """Float32 logits of `batch.logits_rows`, or of every row: [rows, W]."""
        plan, ops = self.plan(batch), batch.ops
        x_TD = ops.embedding(batch.token_ids_T, self.embed_tokens)
        for layer in self.layers:
            x_TD = layer(x_TD, batch, plan)
        if batch.logits_rows is not None:
            x_TD = x_TD[batch.logits_rows]
        x_TD = ops.rms_norm(x_TD, self.norm, self.config.rms_norm_eps)
        logits_RW: Tensor = ops.linear(x_TD, self.lm_head).float()
        return logits_RW

    def plan(self, batch: Batch) -> AttentionPlan:
        """What all layers of a pass share."""
        if self._inv_freq is None or self._inv_freq.device != self.device:
            self._inv_freq = inverse_frequencies(self.config, self.device)
        cos_TR2, sin_TR2 = rotary_table(self.config, batch.positions_T, self._inv_freq)
        return AttentionPlan(batch.ops, cos_TR2, sin_TR2, *split_forms(batch, self.config))

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
