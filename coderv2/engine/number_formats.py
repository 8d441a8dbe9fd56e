"""Number formats of weights and cache by the names that vLLM has for them."""

import torch

from coderv2.errors import Unsupported
from coderv2.kernels.scaled import Kind

_DTYPES = {
    "auto": None,
    "bfloat16": torch.bfloat16,
    "float": torch.float32,
    "float32": torch.float32,
    "half": torch.float16,
    "float16": torch.float16,
}


_FP8 = {"fp8": torch.float8_e4m3fn, "fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
_BYTES = {"cuda": _FP8, "cpu": {"int8": torch.int8, **_FP8}}
"""Caches of one byte a number, and where they can be."""
_KNOWS_E4M3 = (8, 9)


def cache_dtype(name: str, device: str) -> torch.dtype | None:
    """By its name, None for "auto"; raises Unsupported for what there is not on `device`."""
    here = _BYTES.get(device, {})
    found = here.get(name, _DTYPES.get(name, torch.float16))
    if found == torch.float16:
        others = ", ".join(["auto", "bfloat16", "float32", *here])
        raise Unsupported(
            f"kv_cache_dtype {name} is not for {device}: there are {others}", param="kv_cache_dtype"
        )
    return found


def check_card(capability: tuple[int, int], scaled: Kind | None, cache: torch.dtype | None) -> None:
    """Unsupported for e4m3 on a GPU that does not know it, by its compute capability."""
    if capability >= _KNOWS_E4M3:
        return
    here = ".".join(map(str, capability))
    if scaled == "fp8":
        raise Unsupported(
            f"quantization fp8 needs compute capability 8.9, this GPU has {here}: take int4",
            param="quantization",
        )
    if cache == torch.float8_e4m3fn:
        raise Unsupported(
            f"kv_cache_dtype fp8_e4m3 needs compute capability 8.9, this GPU has {here}: take fp8_e5m2",
            param="kv_cache_dtype",
        )


def dtype(name: str | torch.dtype, param: str) -> torch.dtype | None:
    """By its name, None for "auto"; raises Unsupported, naming `param`, for what nothing computes in."""
    found = name if isinstance(name, torch.dtype) else _DTYPES.get(name, torch.float16)
    if found not in (None, torch.bfloat16, torch.float32):
        raise Unsupported(f"{param} {name} is not supported: use auto, bfloat16 or float32", param=param)
    return found
