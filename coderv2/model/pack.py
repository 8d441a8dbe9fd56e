"""Plain parameters into packed weights, module by module, so that no more than one of them is there twice."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from coderv2.errors import Unsupported
from coderv2.kernels.formats import Weight
from coderv2.kernels.layout import FP8_SPAN
from coderv2.kernels.packing import pack, pack_fp8, unpack
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


def slots(model: nn.Module) -> list[tuple[nn.Module, str, str, tuple[int, ...]]]:
    """Every parameter: its module, its name there, its whole name, its shape."""
    return [
        (module, name, f"{stem}.{name}".removeprefix("."), tuple(parameter.shape))
        for stem, module in model.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
    ]


def exact_format(ours: str, dtype: torch.dtype) -> str:
    """The format that loses nothing of `dtype`; the router is computed in float32, as published."""
    return "f32" if dtype == torch.float32 or ours.endswith(".mlp.gate") else "bf16"


def place(module: nn.Module, name: str, tensor: Tensor, format_name: str) -> None:
    """Puts one parameter's values into its module: matrices packed, norms as float32."""
    if tensor.dim() == 1:
        module.register_parameter(name, nn.Parameter(tensor.float(), requires_grad=False))
    elif name == "kv_b_proj" and isinstance(module, LatentAttention):
        set_up_projection(module, tensor, format_name)
    else:
        set_weight(module, name, pack(tensor, format_name))


def place_fp8(module: nn.Module, name: str, codes: Tensor, scales: Tensor) -> None:
    """Puts FP8 values into their module: codes as numbers [..., O, I], scales of each row and span, [..., O, S]."""
    if name != "kv_b_proj" or not isinstance(module, LatentAttention):
        set_weight(module, name, pack_fp8(codes, scales))
        return
    config = module.config
    (key_codes, value_codes), (key_scales, value_scales) = (
        part.unflatten(0, (config.num_attention_heads, -1)).split(
            [config.qk_nope_head_dim, config.v_head_dim], 1
        )
        for part in (codes, scales)
    )
    set_up_stacks(
        module,
        key_up=pack_fp8(key_codes, key_scales),
        key_absorb=_turned_fp8(key_codes, key_scales),
        value_up=pack_fp8(value_codes, value_scales),
    )


def _turned_fp8(codes_HNC: Tensor, scales_HNS: Tensor) -> Weight:
    """Keys the other way round: exact where a head's rows share their scales, as with blocks of 128; else rounded to
    bfloat16."""
    C = codes_HNC.shape[2]
    wide_HNC = scales_HNS.repeat_interleave(FP8_SPAN, 2)[..., :C]
    if not bool((scales_HNS == scales_HNS[:, :1]).all()):
        return pack((codes_HNC * wide_HNC).transpose(1, 2), "bf16")
    spans = -(-codes_HNC.shape[1] // FP8_SPAN)
    return pack_fp8(codes_HNC.transpose(1, 2), wide_HNC[:, 0, :, None].expand(-1, -1, spans))


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
            module.register_parameter(name, nn.Parameter(tensor_of(source, name), requires_grad=False))
    return plain


def tensor_of(module: nn.Module, name: str, dtype: torch.dtype | None = None) -> Tensor:
    """One parameter of a packed model as a plain tensor; `dtype` None is its own, which quantised ones lack."""
    if name == "kv_b_proj" and isinstance(module, LatentAttention) and module.key_up and module.value_up:
        joined = torch.cat((unpack(module.key_up), unpack(module.value_up)), 1).flatten(0, 1)
        return joined.to(dtype or _EXACT[module.key_up.format.name])
    value = getattr(module, name)
    if isinstance(value, Weight):
        return unpack(value).to(dtype or _EXACT[value.format.name])
    plain: Tensor = value.detach().clone()
    return plain.to(dtype or plain.dtype)


def repack(plain: Transformer) -> Transformer:
    """The reverse of `unpacked`: every weight in the number format that it has."""
    names = {dtype: name for name, dtype in _EXACT.items()}
    formats = {name: names[parameter.dtype] for name, parameter in plain.named_parameters()}
    return pack_model(plain, formats.__getitem__)


def set_weight(module: nn.Module, name: str, weight: Weight) -> None:
    """Puts a packed weight where a parameter was."""
    module._parameters.pop(name, None)
    setattr(module, name, weight)


def stored_shapes(model: Transformer) -> dict[str, tuple[int, ...]]:
    """What a packed model stores, by name: matrices and stacks in kernel order, norms as vectors."""
    return {
        ours.removesuffix(name) + part: placed
        for module, name, ours, shape in slots(model)
        for part, placed in placed_shapes(module, name, shape).items()
    }


def placed_shapes(module: nn.Module, name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """What `place` makes of one parameter, by name in its module."""
    if name == "kv_b_proj" and isinstance(module, LatentAttention):
        return _up_shapes(module)
    return {name: shape}


def _up_shapes(attention: LatentAttention) -> dict[str, tuple[int, ...]]:
    config = attention.config
    H, N, C = config.num_attention_heads, config.qk_nope_head_dim, config.kv_lora_rank
    return {"key_up": (H, N, C), "key_absorb": (H, C, N), "value_up": (H, config.v_head_dim, C)}


def take(module: nn.Module) -> dict[str, Weight | Tensor]:
    """What `module` itself holds of values, taken out of it, so that their memory can go."""
    weights = {name: value for name, value in vars(module).items() if isinstance(value, Weight)}
    plain = {name: p.detach() for name, p in module.named_parameters(recurse=False) if not p.is_meta}
    for name in weights:
        setattr(module, name, None)
    for name in plain:
        module.register_parameter(name, None)
    return weights | plain


def put(module: nn.Module, name: str, value: Weight | Tensor) -> None:
    """Puts one stored value where a packed model has it."""
    if isinstance(value, Tensor):
        module.register_parameter(name, nn.Parameter(value, requires_grad=False))
    elif isinstance(module, LatentAttention) and name in _up_shapes(module):
        set_up_stacks(module, **{name: value})
    else:
        set_weight(module, name, value)


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
