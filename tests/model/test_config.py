"""Reading `config.json` of the published shape, of native transformers, and of nobody."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderv2.errors import BadCheckpoint, CoderV2Error, Unsupported
from coderv2.model.config import ModelConfig
from coderv2.model.published import published_tensors
from coderv2.model.transformer import Transformer
from tests.published import FULL, LITE


@pytest.mark.parametrize("published", [LITE, FULL], ids=["lite", "236B"])
def test_published_file_is_read_and_written_back_key_by_key(published: dict[str, Any]) -> None:
    written = ModelConfig.from_dict(published).to_dict()
    for key, value in published.items():
        if key != "auto_map":
            assert written[key] == value, key


def test_code_named_by_the_file_is_dropped_and_other_unknown_keys_kept() -> None:
    config = ModelConfig.from_dict(LITE | {"surprise": [1, 2]})
    assert config.extra["surprise"] == [1, 2]
    assert "auto_map" not in config.to_dict()


@pytest.mark.parametrize(("published", "tensors", "parameters"), [
    (LITE, 5_291, 15_706_484_224),
    (FULL, 29_102, 235_741_434_880),
], ids=["lite", "236B"])  # fmt: skip
def test_model_has_the_published_tensors(published: dict[str, Any], tensors: int, parameters: int) -> None:
    import torch

    with torch.device("meta"):
        model = Transformer(ModelConfig.from_dict(published))
    shapes = {name: tuple(tensor.shape) for name, tensor in published_tensors(model)}
    assert len(shapes) == tensors
    assert sum(p.numel() for p in model.parameters()) == parameters
    experts, width, d = (
        published["n_routed_experts"],
        published["moe_intermediate_size"],
        published["hidden_size"],
    )
    assert shapes[f"model.layers.1.mlp.experts.{experts - 1}.down_proj.weight"] == (d, width)
    assert shapes["model.layers.0.self_attn.kv_a_proj_with_mqa.weight"] == (576, d)
    assert shapes["lm_head.weight"] == (102400, d)


def test_native_transformers_layout_gives_the_same_config() -> None:
    native = dict(LITE)
    scaling = native.pop("rope_scaling")
    native["rope_parameters"] = {**scaling, "rope_type": "yarn", "rope_theta": native.pop("rope_theta")}
    native["dtype"] = native.pop("torch_dtype")
    for dropped in ("aux_loss_alpha", "seq_aux", "moe_layer_freq", "scoring_func"):
        native.pop(dropped)
    ours, theirs = ModelConfig.from_dict(LITE), ModelConfig.from_dict(native)
    assert {k: v for k, v in vars(theirs).items() if k != "extra"} == {
        k: v for k, v in vars(ours).items() if k != "extra"
    }


@pytest.mark.parametrize("key", ["hidden_size", "kv_lora_rank", "q_lora_rank", "rope_scaling", "topk_method"])
def test_missing_key_is_named(key: str) -> None:
    with pytest.raises(BadCheckpoint, match=key):
        ModelConfig.from_dict({k: v for k, v in LITE.items() if k != key})


@pytest.mark.parametrize(("change", "named"), [
    ({"hidden_size": "2048"}, "hidden_size"),
    ({"hidden_size": True}, "hidden_size"),
    ({"num_hidden_layers": 0}, "num_hidden_layers"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
    ({"num_experts_per_tok": 65}, "num_experts_per_tok"),
    ({"rope_scaling": {"type": "yarn", "factor": 40}}, "rope_scaling lacks"),
    ({"topk_method": "group_limited_greedy", "n_group": 7, "topk_group": 3}, "n_group"),
    ({"model_type": "llama"}, "model_type"),
])  # fmt: skip
def test_wrong_value_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(BadCheckpoint, match=named):
        ModelConfig.from_dict(LITE | change)


@pytest.mark.parametrize(("change", "named"), [
    ({"hidden_act": "gelu"}, "hidden_act"),
    ({"scoring_func": "sigmoid"}, "scoring_func"),
    ({"topk_method": "noaux_tc"}, "topk_method"),
    ({"rope_scaling": {"type": "linear", "factor": 2}}, "linear"),
    ({"tie_word_embeddings": True}, "tie_word_embeddings"),
])  # fmt: skip
def test_architecture_we_do_not_run_is_refused_not_ignored(change: dict[str, Any], named: str) -> None:
    with pytest.raises(Unsupported, match=named):
        ModelConfig.from_dict(LITE | change)


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff"])
def test_unreadable_file_is_one_error_naming_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadCheckpoint, match=r"config\.json"):
        ModelConfig.from_folder(tmp_path)


@given(key=st.sampled_from(sorted(LITE)), value=st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
))  # fmt: skip
def test_any_value_of_any_key_is_read_or_refused(key: str, value: Any) -> None:
    with contextlib.suppress(CoderV2Error):
        json.dumps(ModelConfig.from_dict(LITE | {key: value}).to_dict())
