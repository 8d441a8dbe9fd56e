"""Decode passes of a packed model, all layers in one call."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from coderv2.kernels import native_attention
from coderv2.kernels.native_layers import Layers, LayerSizes, LayerWeights
from coderv2.model.attention import LATENT_NORM_EPS, AttentionPlan
from coderv2.model.batch import Batch
from coderv2.model.config import ModelConfig
from coderv2.model.moe import MixtureOfExperts, routing
from coderv2.model.rope import softmax_scale


class FusedLayers:
    """The layers of one packed model."""

    def __init__(self, config: ModelConfig, layers: Sequence[nn.Module]) -> None:
        sizes = LayerSizes(
            D=config.hidden_size,
            H=config.num_attention_heads,
            N=config.qk_nope_head_dim,
            R=config.qk_rope_head_dim,
            C=config.kv_lora_rank,
            V=config.v_head_dim,
            scale=softmax_scale(config),
            eps=config.rms_norm_eps,
            latent_eps=LATENT_NORM_EPS,
        )
        self._mixtures = [layer.mlp for layer in layers if isinstance(layer.mlp, MixtureOfExperts)]
        self._layers = Layers(sizes, [_weights(layer) for layer in layers])

    def takes(self, batch: Batch, plan: AttentionPlan) -> bool:
        """True for a pass that is absorbed throughout, and of which nobody takes notes."""
        if plan.expanded is not None or batch.cache is None:
            return False
        if batch.router_log is not None or batch.computed_by is not None:
            return False
        pages = batch.cache.latent_LPSC, batch.cache.k_rope_LPSR
        wanted = native_attention.takes(plan.cos_TR2) and native_attention.takes_pages(*pages)
        return wanted and all(mixture.used_E is None for mixture in self._mixtures)

    def run(self, x_TD: Tensor, batch: Batch, plan: AttentionPlan) -> Tensor:
        """[T, D] after the last layer; `x_TD` itself."""
        assert batch.cache is not None
        assert batch.slots_T is not None
        pages = batch.cache.latent_LPSC, batch.cache.k_rope_LPSR
        self._layers.run(x_TD, (plan.cos_TR2, plan.sin_TR2), batch.slots_T, pages, **plan.spans)
        return x_TD


def _weights(layer: Any) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    mixture = isinstance(mlp, MixtureOfExperts)
    direct = attention.config.q_lora_rank is None
    return LayerWeights(
        input_norm=layer.input_layernorm,
        queries=(attention.q_proj,) if direct else (attention.q_a_proj, attention.q_b_proj),
        query_norm=None if direct else attention.q_a_layernorm,
        latent=attention.kv_a_proj_with_mqa,
        latent_norm=attention.kv_a_layernorm,
        key_absorb=attention.key_absorb,
        value_up=attention.value_up,
        output=attention.o_proj,
        mixture_norm=layer.post_attention_layernorm,
        router=mlp.gate if mixture else None,
        routing=routing(attention.config),
        routed=mlp.experts.weights() if mixture else None,
        shared=(mlp.shared_experts if mixture else mlp).weights(),
    )
