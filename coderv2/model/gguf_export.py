"""Checkpoint folders as GGUF files that llama.cpp opens: tensors as its converter lays them out since April 2025."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from coderv2.errors import Unsupported
from coderv2.kernels.ggml_encode import encode
from coderv2.model.config import ModelConfig
from coderv2.model.folder import read_parameters
from coderv2.model.gguf_names import ARCHITECTURE, tensor_name, up_shapes
from coderv2.model.gguf_tokenizer import TokenType
from coderv2.model.gguf_types import FileType, type_of
from coderv2.model.gguf_write import GgufWriter, Planned
from coderv2.model.moe import routing
from coderv2.model.published import parameter_shapes
from coderv2.text.chat import CHAT_TEMPLATE
from coderv2.text.published import Vocabulary
from coderv2.text.tokenizer import Tokenizer, is_marker

_SOFTMAX = 1
_QUANTS_VERSION = 2


def export(folder: Path, path: Path, file_type: FileType, *, name: str, progress: bool = False) -> None:
    """Writes the checkpoint in `folder` to `path`; memory at the peak is one tensor, not the model.

    Raises BadCheckpoint where the folder is damaged, Unsupported for a model that the format cannot describe.
    """
    config = ModelConfig.from_folder(folder)
    tokenizer = Tokenizer.from_folder(folder)
    plan = [_planned(one, shape, file_type, config) for one, shape in _tensors(config)]
    metadata = {
        "general.architecture": ARCHITECTURE,
        "general.type": "model",
        "general.name": name,
        "general.file_type": file_type.number,
        "general.quantization_version": _QUANTS_VERSION,
        **{f"{ARCHITECTURE}.{key}": value for key, value in _model(config).items()},
        **{f"tokenizer.{key}": value for key, value in _tokenizer(tokenizer, config).items()},
    }
    total = sum(tensor.size for tensor in plan)
    bar = tqdm(total=total, desc="writing", unit="B", unit_scale=True, disable=None if progress else True)
    with bar, GgufWriter(path, metadata, plan) as writer:
        values = _values(folder, config)
        for tensor in plan:
            _write(writer, tensor, next(values))
            bar.update(tensor.size)


def _write(writer: GgufWriter, tensor: Planned, values: Tensor) -> None:
    """A function of its own, so that nothing holds the values while the next are read."""
    for matrix in values.split(1) if values.dim() == 3 else (values,):
        writer.write(encode(tensor.type, matrix))
    writer.end()


def _tensors(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes in the file, in its order."""
    for ours, shape in parameter_shapes(config):
        if ours.endswith("kv_b_proj"):
            yield from up_shapes(ours, config).items()
        else:
            yield tensor_name(ours), shape


def _planned(name: str, shape: tuple[int, ...], file_type: FileType, config: ModelConfig) -> Planned:
    chosen = type_of(file_type, name, shape, config.num_hidden_layers, config.n_routed_experts)
    return Planned(name, shape, chosen)


def _values(folder: Path, config: ModelConfig) -> Iterator[Tensor]:
    """The tensors in the file's order, each read when it is asked for."""
    for ours, values in read_parameters(folder):
        if not ours.endswith("kv_b_proj"):
            yield values
            del values  # before the next is read
            continue
        up_HOC = values.unflatten(0, (config.num_attention_heads, -1))
        key_HNC, value_HVC = up_HOC.split([config.qk_nope_head_dim, config.v_head_dim], 1)
        yield key_HNC.transpose(1, 2).contiguous()
        yield value_HVC.contiguous()


def _model(config: ModelConfig) -> dict[str, Any]:
    R, C, chosen = config.qk_rope_head_dim, config.kv_lora_rank, routing(config)
    return {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "leading_dense_block_count": config.first_k_dense_replace,
        "feed_forward_length": config.intermediate_size,
        "expert_feed_forward_length": config.moe_intermediate_size,
        "expert_count": config.n_routed_experts,
        "expert_used_count": config.num_experts_per_tok,
        "expert_shared_count": config.n_shared_experts,
        "expert_group_count": chosen.groups,
        "expert_group_used_count": chosen.kept,
        "expert_gating_func": _SOFTMAX,
        "expert_weights_scale": float(config.routed_scaling_factor),
        "expert_weights_norm": config.norm_topk_prob,
        "attention.head_count": config.num_attention_heads,
        # The readers take the latent for one head of keys, and its first part for the values.
        "attention.head_count_kv": 1,
        "attention.key_length": C + R,
        "attention.value_length": C,
        "attention.key_length_mla": config.qk_head_dim,
        "attention.value_length_mla": config.v_head_dim,
        "attention.kv_lora_rank": C,
        # llama.cpp asks for it unless there are as many layers as Lite has; 0 says that there is no such projection.
        "attention.q_lora_rank": config.q_lora_rank or 0,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": R,
        "rope.freq_base": float(config.rope_theta),
        **_rope_scaling(config),
    }


def _rope_scaling(config: ModelConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    if scaling is None:
        return {"rope.scaling.type": "none"}
    if scaling.mscale != scaling.mscale_all_dim:
        raise Unsupported(
            f"rope_scaling has mscale {scaling.mscale} and mscale_all_dim {scaling.mscale_all_dim}; a GGUF file holds "
            "one number for both"
        )
    return {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": float(scaling.factor),
        "rope.scaling.original_context_length": int(scaling.original_max_position_embeddings),
        "rope.scaling.yarn_log_multiplier": 0.1 * scaling.mscale_all_dim,
        "rope.scaling.yarn_beta_fast": float(scaling.beta_fast),
        "rope.scaling.yarn_beta_slow": float(scaling.beta_slow),
    }


def _tokenizer(tokenizer: Tokenizer, config: ModelConfig) -> dict[str, Any]:
    """Rows of the model without a token get a name, as the format needs one for each."""
    vocabulary = Vocabulary.of(tokenizer.backend)
    rows = range(config.vocab_size)
    fim = tokenizer.fim
    marks = {} if fim is None else {
        "ggml.fim_pre_token_id": fim.begin,
        "ggml.fim_suf_token_id": fim.hole,
        "ggml.fim_mid_token_id": fim.end,
    }  # fmt: skip
    return {
        "ggml.model": "gpt2",
        "ggml.pre": "deepseek-llm",
        "ggml.tokens": [vocabulary.tokens.get(i, f"[PAD{i}]") for i in rows],
        "ggml.token_type": [int(_token_type(vocabulary, i)) for i in rows],
        "ggml.merges": [f"{a} {b}" for a, b in vocabulary.merges],
        "ggml.bos_token_id": tokenizer.bos_id,
        "ggml.eos_token_id": tokenizer.eos_id,
        "ggml.padding_token_id": tokenizer.eos_id,
        "ggml.add_bos_token": True,
        "ggml.add_eos_token": False,
        **marks,
        "chat_template": CHAT_TEMPLATE,
    }


def _token_type(vocabulary: Vocabulary, token_id: int) -> TokenType:
    if token_id not in vocabulary.tokens:
        return TokenType.UNUSED
    if token_id not in vocabulary.added:
        return TokenType.NORMAL
    return TokenType.CONTROL if is_marker(vocabulary.tokens[token_id]) else TokenType.USER_DEFINED
