"""Shapes and constants of a model out of a GGUF file's metadata."""

from typing import Any

from coderv2.errors import BadCheckpoint, Unsupported, shown
from coderv2.model.config import ModelConfig
from coderv2.model.gguf_names import ARCHITECTURE
from coderv2.model.gguf_parts import Gguf

_SOFTMAX = 1  # of the gating functions that files name by number
# Files of the 236B model from before the keys were written lack them: these are the released ones.
_GROUPS_OF_236B = {"expert_group_count": 8, "expert_group_used_count": 3}


def config_of(file: Gguf) -> ModelConfig:
    """Shapes and constants; BadCheckpoint or Unsupported name the file and what is wrong with it."""
    values = _values(file)
    try:
        return ModelConfig.from_dict(values)
    except (BadCheckpoint, Unsupported) as error:
        raise type(error)(f"{file.path}: {str(error).removeprefix('config.json: ')}") from None


def _values(file: Gguf) -> dict[str, Any]:
    count, number = int, (int, float)
    rope = file.value("rope.dimension_count", count)
    new = f"{ARCHITECTURE}.attention.key_length_mla" in file.metadata
    key, value = ("attention.key_length_mla", "attention.value_length_mla") if new else (
        "attention.key_length", "attention.value_length"
    )  # fmt: skip
    experts = file.value("expert_count", count)
    values = {
        "model_type": "deepseek_v2",
        "vocab_size": file.matrix("token_embd.weight").shape[0],
        "hidden_size": file.value("embedding_length", count),
        "num_hidden_layers": file.value("block_count", count),
        "num_attention_heads": file.value("attention.head_count", count),
        "q_lora_rank": file.value("attention.q_lora_rank", count, 0) or None,
        "kv_lora_rank": file.value("attention.kv_lora_rank", count),
        "qk_nope_head_dim": file.value(key, count) - rope,
        "qk_rope_head_dim": rope,
        "v_head_dim": file.value(value, count),
        "intermediate_size": file.value("feed_forward_length", count),
        "moe_intermediate_size": file.value("expert_feed_forward_length", count),
        "n_routed_experts": experts,
        "n_shared_experts": file.value("expert_shared_count", count),
        "num_experts_per_tok": file.value("expert_used_count", count),
        "first_k_dense_replace": file.value("leading_dense_block_count", count),
        "routed_scaling_factor": float(file.value("expert_weights_scale", number, 1.0)),
        "norm_topk_prob": file.value("expert_weights_norm", bool, False),
        "rms_norm_eps": float(file.value("attention.layer_norm_rms_epsilon", number)),
        "max_position_embeddings": file.value("context_length", count),
        "rope_theta": float(file.value("rope.freq_base", number)),
        "rope_scaling": _rope_scaling(file),
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": file.metadata.get("tokenizer.ggml.eos_token_id"),
    }
    if file.value("expert_gating_func", count, _SOFTMAX) != _SOFTMAX:
        raise Unsupported(f"{file.path}: routing other than by softmax is not DeepSeek-V2's")
    return values | _groups(file, experts)


def _groups(file: Gguf, experts: int) -> dict[str, Any]:
    defaults = _GROUPS_OF_236B if experts == 160 else dict.fromkeys(_GROUPS_OF_236B, 1)
    groups, kept = (file.value(key, int, default) or 1 for key, default in defaults.items())
    method = "group_limited_greedy" if groups > 1 else "greedy"
    return {"topk_method": method, "n_group": groups, "topk_group": kept}


def _rope_scaling(file: Gguf) -> dict[str, Any] | None:
    kind = file.metadata.get(f"{ARCHITECTURE}.rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind != "yarn":
        raise Unsupported(f"{file.path}: rope scaling {shown(kind)}; DeepSeek-V2 has yarn")
    number = (int, float)
    # The file holds a tenth of mscale_all_dim, and the released models' mscale is the same.
    mscale = round(float(file.value("rope.scaling.yarn_log_multiplier", number)) * 10, 6)
    return {
        "type": "yarn",
        "factor": float(file.value("rope.scaling.factor", number)),
        "original_max_position_embeddings": file.value("rope.scaling.original_context_length", int),
        "beta_fast": float(file.value("rope.scaling.yarn_beta_fast", number, 32.0)),
        "beta_slow": float(file.value("rope.scaling.yarn_beta_slow", number, 1.0)),
        "mscale": mscale,
        "mscale_all_dim": mscale,
    }
