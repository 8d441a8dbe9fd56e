"""GGUF files of tiny models, written by the `gguf` package and not by us."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from torch import Tensor

from coderv2.kernels import cpu
from coderv2.model.config import ModelConfig
from coderv2.model.gguf_names import ARCHITECTURE, tensor_name
from coderv2.model.transformer import Transformer

CONTROL, NORMAL = 3, 1

needs_kernels = pytest.mark.skipif(cpu.kernels is None, reason="quants are unpacked by the CPU kernels")


def write_gguf(
    path: Path,
    model: Transformer,
    *,
    old: bool = False,
    kind: Type = Type.F32,
    tokenizer: Path | None = None,
    tensors_per_part: int = 0,
    overrides: Mapping[str, Any] | None = None,
    chat_template: str | None = None,
    leave_out: str = "",
    extra: Mapping[str, Tensor] | None = None,
) -> Path:
    """`old` has one attn_kv_b where newer files have keys and values apart; `tokenizer` is a checkpoint's folder.

    Returns the first part's path.
    """
    writer = gguf.GGUFWriter(path, ARCHITECTURE, split_max_tensors=tensors_per_part)
    for key, value in (metadata(model.config, old) | dict(overrides or {})).items():
        _add(writer, f"{ARCHITECTURE}.{key}", value)
    writer.add_bos_token_id(model.config.bos_token_id)
    writer.add_eos_token_id(model.config.eos_token_id)
    if tokenizer is not None:
        add_tokenizer(writer, tokenizer)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    for name, tensor in [*tensors(model, old), *(extra or {}).items()]:
        if name != leave_out:
            add_tensor(writer, name, tensor, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if path.exists() else next(iter(sorted(path.parent.glob(f"{path.stem}-00001-of-*.gguf"))))


def add_tensor(writer: gguf.GGUFWriter, name: str, tensor: Tensor, kind: Type) -> None:
    """Norms, routers and rows that do not fill blocks stay float32."""
    numbers = tensor.detach().float().numpy()
    plain = tensor.dim() == 1 or "ffn_gate_inp" in name or tensor.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]
    if plain or kind == Type.F32:
        writer.add_tensor(name, np.ascontiguousarray(numbers))
        return
    writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(numbers), kind), raw_dtype=kind)


def metadata(config: ModelConfig, old: bool) -> dict[str, Any]:
    """The keys of llama.cpp's converter; `old` as until April 2025."""
    N, R, V, C = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim, config.kv_lora_rank
    heads = {
        "attention.head_count_kv": config.num_attention_heads,
        "attention.key_length": N + R,
        "attention.value_length": V,
    }
    if not old:
        heads = {
            "attention.head_count_kv": 1,
            "attention.key_length": C + R,
            "attention.value_length": C,
            "attention.key_length_mla": N + R,
            "attention.value_length_mla": V,
            "expert_group_count": config.n_group,
            "expert_group_used_count": config.topk_group,
        }
    rope = config.rope_scaling
    scaling = {} if rope is None else {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": rope.factor,
        "rope.scaling.original_context_length": int(rope.original_max_position_embeddings),
        "rope.scaling.yarn_log_multiplier": 0.1 * rope.mscale_all_dim,
    }  # fmt: skip
    rank = {} if config.q_lora_rank is None else {"attention.q_lora_rank": config.q_lora_rank}
    return heads | scaling | rank | {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "rope.freq_base": float(config.rope_theta),
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "expert_used_count": config.num_experts_per_tok,
        "expert_count": config.n_routed_experts,
        "expert_shared_count": config.n_shared_experts,
        "expert_feed_forward_length": config.moe_intermediate_size,
        "leading_dense_block_count": config.first_k_dense_replace,
        "vocab_size": config.vocab_size,
        "attention.kv_lora_rank": C,
        "rope.dimension_count": R,
        "expert_weights_scale": config.routed_scaling_factor,
    }  # fmt: skip


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint64(key, value) if value >= 1 << 32 else writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


def add_tokenizer(writer: gguf.GGUFWriter, folder: Path) -> None:
    """Tokens, types and merges out of a folder's tokenizer.json."""
    whole = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    added = {token["content"]: token["id"] for token in whole["added_tokens"]}
    tokens = {i: token for token, i in (whole["model"]["vocab"] | added).items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("deepseek-llm")
    writer.add_token_list([tokens[i] for i in range(len(tokens))])
    writer.add_token_types([CONTROL if tokens[i] in added else NORMAL for i in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in whole["model"]["merges"]])


def tensors(model: Transformer, old: bool) -> Iterator[tuple[str, Tensor]]:
    """By the file's names; up-projections of keys turned, in newer files."""
    config = model.config
    for ours, tensor in model.named_parameters():
        name = tensor_name(ours)
        if old or not name.endswith("attn_kv_b.weight"):
            yield name, tensor
            continue
        up_HOC = tensor.unflatten(0, (config.num_attention_heads, -1))
        key_HNC, value_HVC = up_HOC.split([config.qk_nope_head_dim, config.v_head_dim], 1)
        yield name.replace("kv_b", "k_b"), key_HNC.transpose(1, 2).contiguous()
        yield name.replace("kv_b", "v_b"), value_HVC.contiguous()
