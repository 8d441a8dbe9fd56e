"""Names of tensors in GGUF files of the `deepseek2` architecture."""

import re

from coderv2.model.config import ModelConfig

ARCHITECTURE = "deepseek2"

_NAMES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
    "self_attn.o_proj": "attn_output",
    "mlp.gate": "ffn_gate_inp",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}


def tensor_name(ours: str) -> str:
    """The file's name for a parameter of ours: layers.3.mlp.gate → blk.3.ffn_gate_inp.weight."""
    layer = re.fullmatch(r"layers\.(\d+)\.(.+)", ours)
    return f"blk.{layer[1]}.{_NAMES[layer[2]]}.weight" if layer else f"{_NAMES[ours]}.weight"


def up_shapes(ours: str, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """What newer files hold in place of `kv_b_proj`: keys, already turned, and values."""
    H, C = config.num_attention_heads, config.kv_lora_rank
    base = tensor_name(ours).removesuffix("attn_kv_b.weight")
    return {
        f"{base}attn_k_b.weight": (H, C, config.qk_nope_head_dim),
        f"{base}attn_v_b.weight": (H, config.v_head_dim, C),
    }
