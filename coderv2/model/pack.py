"""Plain parameters into packed weights, module by module, so that no more than one of them is there twice."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from coderv2.kernels.formats import Weight
from coderv2.kernels.packing import pack
from coderv2.model.attention import LatentAttention
from coderv2.model.transformer import Transformer

Choose = Callable[[str], str]
"""From a parameter's name to the format for it."""


@torch.no_grad()
def pack_model(model: Transformer, choose: Choose) -> Transformer:
    """Packs every matrix of `model` in place; norms become float32, since packed models compute in it."""
    for stem, module in list(model.named_modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            full = f"{stem}.{name}".removeprefix(".")
            if parameter.dim() == 1:
                parameter.data = parameter.data.float()
            elif name == "kv_b_proj" and isinstance(module, LatentAttention):
                set_up_projection(module, parameter.detach(), choose(full))
            else:
                set_weight(module, name, pack(parameter.detach(), choose(full)))
    return model


def set_weight(module: nn.Module, name: str, weight: Weight) -> None:
    """Puts a packed weight where a parameter was."""
    module._parameters.pop(name, None)
    setattr(module, name, weight)


def set_up_projection(attention: LatentAttention, kv_b_OC: Tensor, name: str) -> None:
    """`kv_b_proj` as three stacks: keys in both directions, since each contracts along its last axis, and values."""
    config = attention.config
    up_HOC = kv_b_OC.unflatten(0, (config.num_attention_heads, -1))
    key_HNC, value_HVC = up_HOC.split([config.qk_nope_head_dim, config.v_head_dim], 1)
    set_up_stacks(
        attention,
        key_up=pack(key_HNC, name),
        key_absorb=pack(key_HNC.transpose(1, 2), name),
        value_up=pack(value_HVC, name),
    )


def set_up_stacks(attention: LatentAttention, **stacks: Weight) -> None:
    """`key_up` [H, N, C], `key_absorb` [H, C, N] and `value_up` [H, V, C] in place of `kv_b_proj`."""
    attention._parameters.pop("kv_b_proj", None)
    for name, stack in stacks.items():
        setattr(attention, name, stack)
