"""FP8 checkpoints of a tiny model in every published layout."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from coderv2.model import weights
from coderv2.model.checkpoint import SINGLE
from tests.tiny import tiny_config, tiny_model

# Heads of 128 and widths that blocks of 128 do not divide.
CONFIG: dict[str, Any] = {
    "hidden_size": 160, "intermediate_size": 272, "qk_nope_head_dim": 128, "v_head_dim": 128, "kv_lora_rank": 192,
    "moe_intermediate_size": 144, "num_attention_heads": 2, "torch_dtype": "bfloat16", "num_hidden_layers": 2,
    "n_routed_experts": 8,
}  # fmt: skip
LAYOUTS: dict[str, dict[str, Any]] = {
    "block": {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "weight_block_size": [128, 128],
        "activation_scheme": "dynamic",
    },
    "tensor": {"quant_method": "fp8", "activation_scheme": "static"},
    "row": {"quant_method": "compressed-tensors", "format": "float-quantized"},
}
WIDE = ("embed_tokens", "lm_head", "norm", "mlp.gate.")


def _quantised(x_OI: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """Codes, and scales as that layout has them."""
    O, I = x_OI.shape
    if layout == "tensor":
        scale = x_OI.abs().max() / 448
        return (x_OI / scale).to(torch.float8_e4m3fn), scale.reshape(1)
    if layout == "row":
        scale = x_OI.abs().amax(1, keepdim=True) / 448
        return (x_OI / scale).to(torch.float8_e4m3fn), scale
    padded = torch.nn.functional.pad(x_OI, (0, -I % 128, 0, -O % 128))
    blocks = padded.unflatten(0, (-1, 128)).unflatten(2, (-1, 128))
    scale = blocks.abs().amax((1, 3)) / 448
    wide = scale.repeat_interleave(128, 0)[:O].repeat_interleave(128, 1)[:, :I]
    return (x_OI / wide).to(torch.float8_e4m3fn), scale


def fp8_folder(folder: Path, layout: str, **sizes: Any) -> dict[str, Tensor]:
    """A checkpoint in that layout; what its numbers are. `sizes` in place of `CONFIG`."""
    folder.mkdir()
    weights.save(tiny_model(tiny_config(**(sizes or CONFIG))).bfloat16(), folder)
    exact, stored = {}, {}
    for name, tensor in load_file(folder / SINGLE).items():
        if any(word in name for word in WIDE):
            exact[name] = stored[name] = tensor
            continue
        codes, scale = _quantised(tensor.float(), layout)
        stem = name.removesuffix("weight")
        stored[name] = codes
        stored[stem + ("weight_scale_inv" if layout == "block" else "weight_scale")] = scale
        if layout == "tensor":
            stored[stem + "input_scale"] = torch.tensor([0.5])
        O, I = codes.shape
        wide = (
            scale.repeat_interleave(128, 0)[:O].repeat_interleave(128, 1)[:, :I]
            if layout == "block"
            else scale
        )
        exact[name] = codes.float() * wide
    save_file(stored, folder / SINGLE)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(
        json.dumps(config | {"quantization_config": LAYOUTS[layout]}), "utf-8"
    )
    return exact
