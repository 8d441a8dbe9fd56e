"""Tiny random models of both published families, and a folder that holds one with its tokenizer."""

from pathlib import Path
from typing import Any

from coderv2.model.config import ModelConfig
from coderv2.model.transformer import Transformer
from coderv2.model.weights import save
from coderv2.text.tokenizer import Tokenizer
from tests.tiny_tokenizer import tiny_tokenizer_folder

_COMMON: dict[str, Any] = {
    "model_type": "deepseek_v2",
    "vocab_size": 600,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "intermediate_size": 112,
    "moe_intermediate_size": 24,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "norm_topk_prob": False,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 163840,
    "rope_theta": 10000,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "torch_dtype": "float32",
}
_YARN = {
    "type": "yarn",
    "factor": 40,
    "original_max_position_embeddings": 4096,
    "beta_fast": 32,
    "beta_slow": 1,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "lite": {
        "num_hidden_layers": 3,
        "q_lora_rank": None,
        "n_routed_experts": 16,
        "num_experts_per_tok": 6,
        "topk_method": "greedy",
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
        "rope_scaling": _YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
    },
    "full": {
        "num_hidden_layers": 4,
        "q_lora_rank": 48,
        "n_routed_experts": 40,
        "num_experts_per_tok": 6,
        "topk_method": "group_limited_greedy",
        "n_group": 8,
        "topk_group": 3,
        "routed_scaling_factor": 16.0,
        "rope_scaling": _YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
    },
}


def tiny_config(family: str = "lite", **overrides: Any) -> ModelConfig:
    """A config of the family's architecture, a few thousand times smaller."""
    return ModelConfig.from_dict(_COMMON | FAMILIES[family] | overrides)


def tiny_model(config: ModelConfig, seed: int = 0) -> Transformer:
    """Random float32 weights, large enough that attention and routing matter to the logits."""
    return Transformer(config).initialise(std=0.08, seed=seed).eval()


def tiny_checkpoint_folder(folder: Path, family: str = "lite") -> Path:
    """A whole checkpoint in `folder`: config, weights, tokenizer."""
    tokenizer = Tokenizer.from_folder(tiny_tokenizer_folder(folder))
    save(
        tiny_model(tiny_config(family, bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id)), folder
    )
    return folder
