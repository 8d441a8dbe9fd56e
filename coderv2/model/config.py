"""The published `config.json` as a frozen dataclass."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from coderv2.errors import BadCheckpoint, Unsupported, shown

MODEL_TYPE = "deepseek_v2"
# A config may name Python files to import (`auto_map`); no code of a checkpoint is ever run here.
_DROPPED_KEYS = frozenset({"auto_map"})
# Written anew by `to_dict`: the same in every file of this architecture, or spelled in two ways.
_DERIVED_KEYS = frozenset({"architectures", "model_type", "num_key_value_heads", "dtype", "rope_parameters"})


@dataclass(frozen=True)
class RopeScaling:
    """YaRN's numbers (spec §2.2, V2 report §3.1.4)."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float
    beta_slow: float
    mscale: float
    mscale_all_dim: float


@dataclass(frozen=True)
class ModelConfig:
    """Shapes and constants of one DeepSeek-V2 model; field names are the published keys.

    A key without a default must be in the file. Keys we do not know are kept in `extra` and written back.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    intermediate_size: int
    moe_intermediate_size: int
    n_routed_experts: int
    n_shared_experts: int
    num_experts_per_tok: int
    first_k_dense_replace: int
    topk_method: str
    n_group: int | None
    topk_group: int | None
    routed_scaling_factor: float
    norm_topk_prob: bool
    rms_norm_eps: float
    max_position_embeddings: int
    rope_theta: float
    rope_scaling: RopeScaling | None
    bos_token_id: int
    eos_token_id: int
    hidden_act: str = "silu"
    scoring_func: str = "softmax"
    moe_layer_freq: int = 1
    attention_bias: bool = False
    attention_dropout: float = 0.0
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    aux_loss_alpha: float = 0.001
    seq_aux: bool = True
    torch_dtype: str = "bfloat16"
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, supported in _ONLY.items():
            if getattr(self, key) not in supported:
                raise Unsupported(
                    f"config.json: {key} is {getattr(self, key)!r}; this model runs only {supported[0]!r}"
                )
        if self.topk_method == "group_limited_greedy":
            self._check_groups()
        self._check_rotation()
        if self.num_experts_per_tok > self.n_routed_experts:
            raise BadCheckpoint(
                f"config.json: num_experts_per_tok is {self.num_experts_per_tok}, "
                f"more than n_routed_experts {self.n_routed_experts}"
            )

    def _check_rotation(self) -> None:
        if self.qk_rope_head_dim % 2:
            raise BadCheckpoint(
                f"config.json: qk_rope_head_dim is {self.qk_rope_head_dim}; dimensions are rotated in pairs"
            )
        if self.rope_theta < 2:
            raise BadCheckpoint(f"config.json: rope_theta is {self.rope_theta}, not a number of at least 2")
        for name, value in vars(self.rope_scaling).items() if self.rope_scaling else ():
            least = _LEAST_OF_YARN[name]
            if value < least:
                raise BadCheckpoint(
                    f"config.json: rope_scaling.{name} is {value}, not a number of at least {least}"
                )

    def _check_groups(self) -> None:
        if not self.n_group or not self.topk_group or self.n_routed_experts % self.n_group:
            raise BadCheckpoint(
                f"config.json: group_limited_greedy needs n_group (is {self.n_group}) to divide "
                f"n_routed_experts {self.n_routed_experts}, and topk_group (is {self.topk_group})"
            )
        eligible = self.n_routed_experts // self.n_group * self.topk_group
        if self.topk_group > self.n_group or eligible < self.num_experts_per_tok:
            raise BadCheckpoint(
                f"config.json: topk_group is {self.topk_group} of n_group {self.n_group}, which leaves {eligible} of "
                f"{self.n_routed_experts} experts to choose {self.num_experts_per_tok} from"
            )

    @property
    def qk_head_dim(self) -> int:
        """Width of one query or key head: the part without position, then the rotary part."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    def is_dense(self, layer: int) -> bool:
        """True where the feed-forward is one plain MLP rather than a mixture of experts (spec §5)."""
        return layer < self.first_k_dense_replace

    @classmethod
    def from_folder(cls, folder: Path) -> "ModelConfig":
        """Reads `folder/config.json`; BadCheckpoint names what is missing or wrong."""
        path = folder / "config.json"
        try:
            raw = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise BadCheckpoint(f"{path}: not found; a model folder holds config.json") from None
        except (OSError, ValueError) as error:
            raise BadCheckpoint(f"{path}: not readable as JSON: {error}") from None
        if not isinstance(raw, dict):
            raise BadCheckpoint(f"{path}: holds a {type(raw).__name__}, not an object")
        return cls.from_dict(raw)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "ModelConfig":
        """Reads the published keys, or those that native `transformers` writes (`rope_parameters`, `dtype`)."""
        if raw.get("model_type") != MODEL_TYPE:
            raise BadCheckpoint(f"config.json: model_type is {raw.get('model_type')!r}, not {MODEL_TYPE!r}")
        values = dict(raw) | _rope_keys(raw)
        if "dtype" in raw:
            values["torch_dtype"] = raw["dtype"]
        known = [f for f in fields(cls) if f.name != "extra"]
        missing = [f.name for f in known if f.default is MISSING and f.name not in values]
        if missing:
            raise BadCheckpoint(f"config.json: missing {', '.join(missing)}")
        chosen = {f.name: _checked(f.name, values[f.name], f.type) for f in known if f.name in values}
        extra = {k: v for k, v in raw.items() if k not in chosen and k not in _DROPPED_KEYS | _DERIVED_KEYS}
        return cls(**chosen, extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """The published form of the file: our fields, the kept unknown keys, `rope_scaling` of type yarn."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
        own["num_key_value_heads"] = self.num_attention_heads
        own["rope_scaling"] = (
            None if self.rope_scaling is None else {"type": "yarn"} | vars(self.rope_scaling)
        )
        return {"architectures": ["DeepseekV2ForCausalLM"], "model_type": MODEL_TYPE} | dict(self.extra) | own


# Keys whose other published-elsewhere values would need other code: refused rather than ignored.
_ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "scoring_func": ("softmax",),
    "moe_layer_freq": (1,),
    "attention_bias": (False,),
    "attention_dropout": (0.0, 0),
    "tie_word_embeddings": (False,),
    "topk_method": ("greedy", "group_limited_greedy"),
}


def _rope_keys(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` from either layout of the file."""
    nested = raw.get("rope_parameters")
    scaling = nested if isinstance(nested, dict) else raw.get("rope_scaling")
    keys: dict[str, Any] = {}
    if isinstance(nested, dict) and "rope_theta" in nested:
        keys["rope_theta"] = nested["rope_theta"]
    if isinstance(nested, dict) or "rope_scaling" in raw:
        keys["rope_scaling"] = _yarn(scaling)
    return keys


def _yarn(raw: Any) -> RopeScaling | None:
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise BadCheckpoint(f"config.json: rope_scaling is {raw!r}, not an object")
    kind = raw.get("rope_type", raw.get("type"))
    if kind == "default":
        return None
    if kind != "yarn":
        raise Unsupported(f"config.json: rope_scaling type is {kind!r}; DeepSeek-V2 uses 'yarn'")
    names = [f.name for f in fields(RopeScaling)]
    missing = [name for name in names if name not in raw]
    if missing:
        raise BadCheckpoint(f"config.json: rope_scaling lacks {', '.join(missing)}")
    return RopeScaling(**{name: _checked(f"rope_scaling.{name}", raw[name], float) for name in names})


_KINDS: dict[Any, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    str: (str,),
    bool: (bool,),
    int | None: (int, type(None)),
}


# Counts start at 1 and other numbers at 0, except:
_LEAST = {"bos_token_id": 0, "eos_token_id": 0, "first_k_dense_replace": 0}


# A file that claims more is damaged, and would only be found out after its model had filled the memory.
_MOST = {"num_hidden_layers": 1 << 10, "max_position_embeddings": 1 << 28, "vocab_size": 1 << 22}
_MOST_OF_OTHERS = 1 << 18
_LEAST_OF_YARN = {
    "factor": 1, "original_max_position_embeddings": 1, "beta_fast": 0.001, "beta_slow": 0.001, "mscale": 0,
    "mscale_all_dim": 0,
}  # fmt: skip


def _checked(name: str, value: Any, kind: Any) -> Any:
    """The value, or BadCheckpoint when it is not of the field's kind or out of its range."""
    wanted = _KINDS.get(kind)
    if wanted is None:
        return value
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        raise BadCheckpoint(
            f"config.json: {name} is {shown(value)}, not {' or '.join(t.__name__ for t in wanted)}"
        )
    least = _LEAST.get(name, 0 if float in wanted else 1)
    # Written so that NaN fails as well.
    if isinstance(value, int | float) and bool not in wanted and not least <= value < float("inf"):
        raise BadCheckpoint(f"config.json: {name} is {value}, not a number of at least {least}")
    most = _MOST.get(name, _MOST_OF_OTHERS)
    if type(value) is int and float not in wanted and value > most:
        raise BadCheckpoint(f"config.json: {name} is {value}; no model has more than {most}")
    return value
