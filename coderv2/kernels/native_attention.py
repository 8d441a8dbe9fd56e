"""Absorbed attention and the operations round it in C++, for float32 activations on the CPU; see `reference`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from coderv2.kernels import latents
from coderv2.kernels.cpu import kernels


def takes(*tensors: Tensor) -> bool:
    """True where the kernels can compute with these: on the CPU, in float32, with nobody asking for gradients."""
    if kernels is None:
        return False
    wanted = torch.is_grad_enabled()
    return all(
        t.device.type == "cpu" and t.dtype == torch.float32 and not (wanted and t.requires_grad)
        for t in tensors
    )


def takes_pages(*pages: Tensor) -> bool:
    """True for pages that the kernels can read: a layer's part of a cache."""
    return all(t.dtype in latents.KINDS and t.is_contiguous() for t in pages)


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm, shape [T, D]; rows may lie apart."""
    x_TD = x_TD if x_TD.stride(-1) == 1 else x_TD.contiguous()
    T, D = x_TD.shape
    out_TD = torch.empty(T, D)
    kernels.rms_norm(x_TD.data_ptr(), T, D, x_TD.stride(0), weight_D.data_ptr(), eps, out_TD.data_ptr())
    return out_TD


def rope(x: Tensor, cos_TR2: Tensor, sin_TR2: Tensor) -> Tensor:
    """Turns interleaved pairs of the last axis; x is [T, R] or [T, H, R]."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    T, R, H = x.shape[0], x.shape[-1], x.shape[1] if x.dim() == 3 else 1
    out = torch.empty(x.shape)
    kernels.rope(
        x.data_ptr(),
        T,
        H,
        R,
        x.stride(0),
        x.stride(1) if x.dim() == 3 else 0,
        cos_TR2.contiguous().data_ptr(),
        sin_TR2.contiguous().data_ptr(),
        out.data_ptr(),
    )
    return out


def cache_write(
    latent_PSC: Tensor, k_rope_PSR: Tensor, slots_T: Tensor, latent_TC: Tensor, k_rope_TR: Tensor
) -> None:
    """Stores each token's latent and rotated key in its slot."""
    for pages, rows in ((latent_PSC, latent_TC), (k_rope_PSR, k_rope_TR)):
        rows = rows if rows.stride(-1) == 1 else rows.contiguous()
        kernels.cache_write(
            rows.data_ptr(),
            *rows.shape,
            rows.stride(0),
            slots_T.data_ptr(),
            pages.data_ptr(),
            latents.KINDS.index(pages.dtype),
        )


def cache_read(pages_PSX: Tensor, slots_S: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """What the slots store, shape [S, width]."""
    out = torch.empty(len(slots_S), width)
    kernels.cache_read(
        pages_PSX.data_ptr(),
        latents.KINDS.index(pages_PSX.dtype),
        slots_S.data_ptr(),
        len(slots_S),
        width,
        out.data_ptr(),
    )
    return out.to(dtype)


def mla_decode(
    q_latent_THC: Tensor,
    q_rope_THR: Tensor,
    latent_PSC: Tensor,
    k_rope_PSR: Tensor,
    *,
    starts: Sequence[int],
    lengths: Sequence[int],
    page_tables: Sequence[Tensor],
    scale: float,
) -> Tensor:
    """Causal attention in absorbed form over a paged cache, shape [T, H, C].

    A cache in int8 is multiplied so, one in bfloat16 or fp8 in bfloat16 where the processor has such products, else in
    float32: queries and weights are rounded to that; sums are float32, or int32 within 256 keys.
    """
    q_latent_THC, q_rope_THR = q_latent_THC.contiguous(), q_rope_THR.contiguous()
    tables = [table.contiguous() for table in page_tables]
    out_THC = torch.empty(q_latent_THC.shape)
    kernels.mla_decode(
        q_latent_THC.data_ptr(),
        q_rope_THR.data_ptr(),
        latent_PSC.data_ptr(),
        k_rope_PSR.data_ptr(),
        latents.KINDS.index(latent_PSC.dtype),
        list(starts),
        list(lengths),
        [table.data_ptr() for table in tables],
        *q_latent_THC.shape[1:],
        q_rope_THR.shape[-1],
        latent_PSC.shape[1],
        scale,
        out_THC.data_ptr(),
    )
    return out_THC


def mla_prefill(
    q_THX: Tensor,
    k_SHX: Tensor,
    v_SHV: Tensor,
    *,
    q_starts: Sequence[int],
    k_starts: Sequence[int],
    scale: float,
    rounded: bool = False,
) -> Tensor:
    """Causal attention in expanded form, shape [T, H, V].

    `rounded` multiplies weights and values in bfloat16 and adds in float32.
    """
    operands = (q_THX, k_SHX, v_SHV, q_starts, k_starts)
    return _prefill(*operands, scale=scale, rounded=rounded, causal=True)[0]


def mla_part(
    q_THX: Tensor, k_SHX: Tensor, v_SHV: Tensor, *, causal: bool, scale: float, rounded: bool = False
) -> tuple[Tensor, Tensor]:
    """One sequence's attention to some of its keys, and the logarithm of each query's sum of e^score, [T, H]."""
    operands = (q_THX, k_SHX, v_SHV, (0, len(q_THX)), (0, len(k_SHX)))
    return _prefill(*operands, scale=scale, rounded=rounded, causal=causal)


def _prefill(
    q_THX: Tensor,
    k_SHX: Tensor,
    v_SHV: Tensor,
    q_starts: Sequence[int],
    k_starts: Sequence[int],
    *,
    scale: float,
    rounded: bool,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    q_THX, k_SHX, v_SHV = q_THX.contiguous(), k_SHX.contiguous(), v_SHV.contiguous()
    (T, H, X), V = q_THX.shape, v_SHV.shape[-1]
    out_THV, spread_TH = torch.empty(T, H, V), torch.empty(T, H)
    kernels.mla_prefill(
        q_THX.data_ptr(),
        k_SHX.data_ptr(),
        v_SHV.data_ptr(),
        list(q_starts),
        list(k_starts),
        H,
        X,
        V,
        scale,
        not rounded,
        causal,
        out_THV.data_ptr(),
        spread_TH.data_ptr(),
    )
    return out_THV, spread_TH
