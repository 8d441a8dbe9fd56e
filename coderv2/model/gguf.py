"""Models of the `deepseek2` architecture in GGUF files: config, weights and tokenizer out of one file or its parts."""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from tqdm import tqdm

from coderv2.errors import BadCheckpoint, Unsupported
from coderv2.kernels import ggml
from coderv2.kernels.packing import pack
from coderv2.model.attention import LatentAttention
from coderv2.model.config import ModelConfig
from coderv2.model.gguf_file import Entry, GgufFile
from coderv2.model.pack import set_up_stacks, set_weight
from coderv2.model.transformer import Transformer
from coderv2.text.published import from_vocabulary
from coderv2.text.tokenizer import Tokenizer

ARCHITECTURE = "deepseek2"
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_SOFTMAX = 1  # of the gating functions that files name by number
# What a token is to GGUF; the others are plain text and bytes.
_CONTROL, _USER_DEFINED = 3, 4
# Files of the 236B model from before the keys were written lack them: these are the released ones.
_GROUPS_OF_236B = {"expert_group_count": 8, "expert_group_used_count": 3}

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


class Gguf:
    """One model's file, or all of its parts."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        """The files are closed with `stack`. Raises BadCheckpoint or Unsupported, which name the file."""
        self.path = path
        self._files = [self._open(part, stack) for part in _parts(path)]
        self.metadata = self._files[0].metadata
        self._check_parts()
        self._file_of = {name: file for file in self._files for name in file.entries}
        if self.metadata.get("general.architecture") != ARCHITECTURE:
            raise Unsupported(
                f"{path}: a model of architecture {self.metadata.get('general.architecture')!r}; "
                f"this program runs {ARCHITECTURE!r} only"
            )

    @staticmethod
    def _open(path: Path, stack: ExitStack) -> GgufFile:
        file = GgufFile(path)
        stack.callback(_close_quietly, file)
        return file

    def _check_parts(self) -> None:
        wanted = self.metadata.get("split.count", 1) or 1
        if wanted != len(self._files):
            raise BadCheckpoint(
                f"{self.path}: one of {wanted} parts, but its name stands for {len(self._files)}; keep the parts' "
                "names as they were made (…-00001-of-00003.gguf) and give the first"
            )
        names = [name for file in self._files for name in file.entries]
        if len(set(names)) < len(names):
            raise BadCheckpoint(f"{self.path}: a tensor is in two of its parts")

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def entry(self, name: str) -> Entry:
        """Where a tensor lies; BadCheckpoint when it is missing."""
        if name not in self._file_of:
            raise BadCheckpoint(f"{self.path}: {name} is missing")
        return self._file_of[name].entries[name]

    def bytes_of(self, name: str) -> Tensor:
        """A tensor's bytes."""
        self.entry(name)
        return self._file_of[name].bytes_of(name)

    def forget(self, name: str) -> None:
        """Gives a tensor's memory back."""
        self._file_of[name].forget(name)

    @property
    def names(self) -> Iterator[str]:
        """Of all tensors."""
        return iter(self._file_of)

    def config(self) -> ModelConfig:
        """Shapes and constants out of the metadata."""
        return ModelConfig.from_dict(_config_values(self))

    def value(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """A metadata value of this architecture; BadCheckpoint when it is missing or of another kind."""
        full = f"{ARCHITECTURE}.{key}"
        found = self.metadata.get(full, default)
        if found is None:
            raise BadCheckpoint(f"{self.path}: metadata lacks {full}")
        if not isinstance(found, kind) or isinstance(found, bool) != (kind is bool):
            raise BadCheckpoint(f"{self.path}: {full} is {found!r}")
        return found


def _close_quietly(file: GgufFile) -> None:
    with suppress(BufferError):  # a tensor in an error's traceback still looks at it; it goes with that
        file.close()


def _parts(path: Path) -> list[Path]:
    match = _PART.fullmatch(path.name)
    if match is None:
        return [path]
    stem, count = match[1], int(match[3])
    if not 1 <= count <= 1000:
        raise BadCheckpoint(f"{path}: {count} parts")
    parts = [path.with_name(f"{stem}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]
    for part in parts:
        if not part.is_file():
            raise BadCheckpoint(f"{part}: not found; {path.name} is one of {count} parts, all of them needed")
    return parts


def _config_values(file: Gguf) -> dict[str, Any]:
    count, number = int, (int, float)
    rope = file.value("rope.dimension_count", count)
    new = f"{ARCHITECTURE}.attention.key_length_mla" in file.metadata
    key, value = ("attention.key_length_mla", "attention.value_length_mla") if new else (
        "attention.key_length", "attention.value_length"
    )  # fmt: skip
    experts = file.value("expert_count", count)
    values = {
        "model_type": "deepseek_v2",
        "vocab_size": file.entry("token_embd.weight").shape[0],
        "hidden_size": file.value("embedding_length", count),
        "num_hidden_layers": file.value("block_count", count),
        "num_attention_heads": file.value("attention.head_count", count),
        "q_lora_rank": file.metadata.get(f"{ARCHITECTURE}.attention.q_lora_rank"),
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
    groups, kept = (file.value(key, int, default) for key, default in defaults.items())
    method = "group_limited_greedy" if groups > 1 else "greedy"
    return {"topk_method": method, "n_group": groups, "topk_group": kept}


def _rope_scaling(file: Gguf) -> dict[str, Any] | None:
    kind = file.metadata.get(f"{ARCHITECTURE}.rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind != "yarn":
        raise Unsupported(f"{file.path}: rope scaling {kind!r}; DeepSeek-V2 has yarn")
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


def read_config(path: Path) -> ModelConfig:
    """Of a file, or the first of its parts."""
    with ExitStack() as stack:
        return Gguf(path, stack).config()


def load(path: Path, *, dtype: torch.dtype | None = None, progress: bool = False) -> Transformer:
    """Opens a file, or the first of its parts: weights packed as they are, or as plain parameters in `dtype`.

    Memory at the peak is the weights and one tensor. Raises BadCheckpoint or Unsupported naming file and tensor.
    """
    with ExitStack() as stack:
        file = Gguf(path, stack)
        with torch.device("meta"):
            model = Transformer(file.config())
        _check(model, file)
        total = sum(file.entry(name).size for name in file.names)
        bar = tqdm(total=total, desc="loading", unit="B", unit_scale=True, disable=None if progress else True)
        with bar, torch.no_grad():
            for stem, module in list(model.named_modules()):
                for name in list(module._parameters):
                    bar.update(_fill(file, module, name, f"{stem}.{name}".removeprefix("."), dtype))
    return model.eval().requires_grad_(False)


class Source:
    """A file, or the first of its parts, that gives one parameter at a time."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        """Files are closed with `stack`; all of it is checked now."""
        self._file = Gguf(path, stack)
        self.config = self._file.config()
        with torch.device("meta"):
            _check(Transformer(self.config), self._file)

    @property
    def dtype(self) -> torch.dtype:
        """What quants are written out in."""
        return torch.bfloat16

    def fill(self, module: nn.Module, name: str, ours: str, dtype: torch.dtype) -> None:
        """Puts a parameter's values into its module, as a plain tensor."""
        _fill(self._file, module, name, ours, dtype)

    def fill_packed(self, module: nn.Module, name: str, ours: str) -> None:
        """The same in kernel order, as it lies in the file."""
        _fill(self._file, module, name, ours, None)


def _check(model: Transformer, file: Gguf) -> None:
    """Every tensor that the metadata calls for is there in its shape."""
    for ours, parameter in model.named_parameters():
        wanted = {tensor_name(ours): tuple(parameter.shape)}
        if ours.endswith("kv_b_proj") and tensor_name(ours) not in file:
            wanted = _up_shapes(ours, model.config)
        elif ours == "lm_head" and "output.weight" not in file:
            wanted = {}  # it is the embedding then
        for name, shape in wanted.items():
            entry = file.entry(name)
            if entry.shape != shape:
                raise BadCheckpoint(
                    f"{file.path}: {name} has shape {list(entry.shape)}, the metadata call for {list(shape)}"
                )


def _up_shapes(ours: str, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    H, C = config.num_attention_heads, config.kv_lora_rank
    base = tensor_name(ours).removesuffix("attn_kv_b.weight")
    return {
        f"{base}attn_k_b.weight": (H, C, config.qk_nope_head_dim),
        f"{base}attn_v_b.weight": (H, config.v_head_dim, C),
    }


def _fill(file: Gguf, module: nn.Module, name: str, ours: str, dtype: torch.dtype | None) -> int:
    """Puts one parameter's values in place; how many bytes of the file that took."""
    if name == "kv_b_proj" and isinstance(module, LatentAttention):
        used = _fill_up_projection(file, module, ours, dtype)
    else:
        used = [tensor_name(ours)] if tensor_name(ours) in file else ["token_embd.weight"]
        entry = file.entry(used[0])
        given = entry.type, file.bytes_of(used[0]), entry.shape
        if len(entry.shape) == 1:
            plain = ggml.unpack(*given).to(dtype or torch.float32, copy=True)
            module.register_parameter(name, nn.Parameter(plain, requires_grad=False))
        elif dtype is None:
            set_weight(module, name, ggml.pack(*given))
        else:
            plain = ggml.unpack(*given).to(dtype, copy=True)
            module.register_parameter(name, nn.Parameter(plain, requires_grad=False))
        del given
    for one in used:
        file.forget(one)
    return sum(file.entry(one).size for one in used)


def _fill_up_projection(
    file: Gguf, attention: LatentAttention, ours: str, dtype: torch.dtype | None
) -> list[str]:
    """`kv_b_proj` from either generation of files: one tensor, or keys (already turned) and values apart."""
    config, whole = attention.config, tensor_name(ours)
    N = config.qk_nope_head_dim
    if whole in file:
        used, entry = [whole], file.entry(whole)
        rows_HOx = file.bytes_of(whole).view(config.num_attention_heads, N + config.v_head_dim, -1)
        key, value = (_part(entry.type, part, entry.shape[1]) for part in (rows_HOx[:, :N], rows_HOx[:, N:]))
        key_HNC, turned = ggml.unpack(*key), None
    else:
        used = list(_up_shapes(ours, config))
        turned, value = ((file.entry(n).type, file.bytes_of(n), file.entry(n).shape) for n in used)
        key_HNC, key = ggml.unpack(*turned).transpose(1, 2), None
    if dtype is not None:
        up_HOC = torch.cat((key_HNC, ggml.unpack(*value)), 1).flatten(0, 1).to(dtype)
        attention.register_parameter("kv_b_proj", nn.Parameter(up_HOC, requires_grad=False))
        return used
    # The direction that the file lacks is written out, since quants do not turn.
    set_up_stacks(
        attention,
        key_up=pack(key_HNC, "bf16") if key is None else ggml.pack(*key),
        key_absorb=pack(key_HNC.transpose(1, 2), "bf16") if turned is None else ggml.pack(*turned),
        value_up=ggml.pack(*value),
    )
    return used


def _part(kind: int, rows_HOx: Tensor, columns: int) -> tuple[int, Tensor, tuple[int, ...]]:
    H, O, _ = rows_HOx.shape
    return kind, rows_HOx.contiguous().flatten(), (H, O, columns)


def tokenizer(path: Path) -> Tokenizer:
    """The vocabulary in a file's metadata; Unsupported when it is cut otherwise than DeepSeek's."""
    with ExitStack() as stack:
        metadata = Gguf(path, stack).metadata
    pre = metadata.get("tokenizer.ggml.pre")
    if metadata.get("tokenizer.ggml.model") != "gpt2" or pre not in ("deepseek-llm", "deepseek-coder"):
        raise Unsupported(f"{path}: tokenizer {metadata.get('tokenizer.ggml.model')!r} with {pre!r}")
    if pre == "deepseek-coder":
        raise Unsupported(f"{path}: the tokenizer of the first DeepSeek-Coder, not of DeepSeek-Coder-V2")
    tokens, types, merges = (
        _strings_or_numbers(metadata, f"tokenizer.ggml.{key}", kind, path)
        for key, kind in (("tokens", str), ("token_type", int), ("merges", str))
    )
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    if len(types) != len(tokens) or len(set(tokens)) != len(tokens) or any(len(pair) != 2 for pair in pairs):
        raise BadCheckpoint(f"{path}: the tokenizer's tokens, types and merges do not fit each other")
    return _tokenizer(path, tokens, types, pairs)


def _strings_or_numbers(metadata: dict[str, Any], key: str, kind: type, path: Path) -> list[Any]:
    values = metadata.get(key)
    if not isinstance(values, list) or not all(type(value) is kind for value in values):
        raise BadCheckpoint(f"{path}: metadata lacks {key}, a list of {kind.__name__}")
    return values


def _tokenizer(
    path: Path, tokens: Sequence[str], types: Sequence[int], merges: Sequence[tuple[str, ...]]
) -> Tokenizer:
    ids = {token: i for i, token in enumerate(tokens)}
    special = {ids[t] for t in ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>") if t in ids}
    added = [
        AddedToken(token, normalized=True, special=i in special)
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    try:
        backend = from_vocabulary(ids, [(a, b) for a, b in merges], added)
    except Exception as error:  # the library raises bare Exception for merges of unknown tokens
        raise BadCheckpoint(f"{path}: the tokenizer's merges cannot be used: {error}") from None
    return Tokenizer(backend, source=str(path))
