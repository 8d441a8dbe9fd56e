"""Plain parameters into packed weights, module by module, so that no more than one of them is there twice."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from coderv2.errors import Unsupported
from coderv2.kernels.formats import Weight
from coderv2.kernels.packing import pack, unpack
from coderv2.model.attention import LatentAttention
from coderv2.model.transformer import Transformer

Choose = Callable[[str], str]
"""From a parameter's name to the format for it."""


@torch.no_grad()
def pack_model(model: Transformer, choose: Choose) -> Transformer:
    """Packs every matrix of `model` in place; norms become float32, since packed models compute in it."""
    for stem, module in list(model.named_modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            place(module, name, parameter.detach(), choose(f"{stem}.{name}".removeprefix(".")))
    return model


def place(module: nn.Module, name: str, tensor: Tensor, format_name: str) -> None:
    """Puts one parameter's values into its module: matrices packed, norms as float32."""
    if tensor.dim() == 1:
        module.register_parameter(name, nn.Parameter(tensor.float(), requires_grad=False))
    elif name == "kv_b_proj" and isinstance(module, LatentAttention):
        set_up_projection(module, tensor, format_name)
    else:
        set_weight(module, name, pack(tensor, format_name))


_EXACT = {"f32": torch.float32, "bf16": torch.bfloat16}


def unpacked(model: Transformer) -> Transformer:
    """A plain copy of a packed model; Unsupported where packing has rounded the weights."""
    stored = {weight.format.name for weight in model.weights()}
    if not stored <= _EXACT.keys():
        raise Unsupported(
            f"weights in {', '.join(sorted(stored - _EXACT.keys()))} cannot be changed in place; load the model in "
            "bfloat16 or float32"
        )
    with torch.device("meta"):
        plain = Transformer(model.config)
    for stem, module in list(plain.named_modules()):
        source = model.get_submodule(stem)
        for name in list(module._parameters):
            module.register_parameter(name, nn.Parameter(_plain(source, name), requires_grad=False))
    return plain


def _plain(module: nn.Module, name: str) -> Tensor:
    """One parameter, in its own number format."""
    if name == "kv_b_proj" and isinstance(module, LatentAttention) and module.key_up and module.value_up:
        dtype = _EXACT[module.key_up.format.name]
        return torch.cat((unpack(module.key_up), unpack(module.value_up)), 1).flatten(0, 1).to(dtype)
    value = getattr(module, name)
    return (
        unpack(value).to(_EXACT[value.format.name]) if isinstance(value, Weight) else value.detach().clone()
    )


def repack(plain: Transformer) -> Transformer:
    """The reverse of `unpacked`: every weight in the number format that it has."""
    names = {dtype: name for name, dtype in _EXACT.items()}
    formats = {name: names[parameter.dtype] for name, parameter in plain.named_parameters()}
    return pack_model(plain, formats.__getitem__)


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
