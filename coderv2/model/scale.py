"""Plain parameters into weights of fewer bits for a GPU, one at a time, so that a load's peak is what it leaves."""

from torch import Tensor, nn

from coderv2.errors import Unsupported
from coderv2.kernels.scaled import GROUP, Kind, Scaled, to_fp8, to_int4

# Small, or what everything else hangs on: the router decides, norms scale, and the vocabulary's rows and the latents'
# maps to heads lose most by rounding.
KEPT = ("embed_tokens", "lm_head", "gate", "kv_b_proj")


def scalable(name: str, tensor: Tensor) -> bool:
    """True for matrices that are rounded; the rest stays as it is."""
    return tensor.dim() > 1 and name not in KEPT


def scale(tensor: Tensor, kind: Kind, name: str) -> Scaled:
    """A matrix [O, I] or a stack [E, O, I] rounded to `kind`. Unsupported where it cannot be."""
    if kind == "fp8":
        return to_fp8(tensor)
    if tensor.shape[-1] % GROUP:
        raise Unsupported(
            f"int4 has groups of {GROUP} columns, which do not divide the {tensor.shape[-1]} of {name}"
        )
    return to_int4(tensor)


def place_scaled(module: nn.Module, name: str, tensor: Tensor, kind: Kind) -> None:
    """Puts one parameter's values into its module, rounded where that is done."""
    if not scalable(name, tensor):
        module.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
        return
    module._parameters.pop(name, None)
    setattr(module, name, scale(tensor, kind, name))
