"""Rotary position with YaRN, and the softmax scale that goes with it (spec §4.3; YaRN, arXiv 2309.00071)."""

import math

import torch
from torch import Tensor

from coderv2.model.config import ModelConfig, RopeScaling


def softmax_scale(config: ModelConfig) -> float:
    """`(N+R)^-½ · m(mscale_all_dim)²`: the square, since both query and key are meant to carry the factor."""
    scale = 1.0 / math.sqrt(config.qk_head_dim)
    if config.rope_scaling is None:
        return scale
    return scale * _mscale(config.rope_scaling.factor, config.rope_scaling.mscale_all_dim) ** 2


def inverse_frequencies(config: ModelConfig, device: torch.device | None = None) -> Tensor:
    """Radians per position of each rotary pair, shape [R/2], float32."""
    R = config.qk_rope_head_dim
    pair = torch.arange(0, R, 2, dtype=torch.float32, device=device)
    theta = 1.0 / config.rope_theta ** (pair / R)
    if config.rope_scaling is None:
        return theta
    ramp = _ramp(config.rope_scaling, R, config.rope_theta).to(theta.device)
    return theta / config.rope_scaling.factor * ramp + theta * (1 - ramp)


def rotary_table(config: ModelConfig, positions_T: Tensor, inv_freq: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of each position and pair, both [T, R/2], float32 as in the published code.

    Kept in float32 even where doubles would be truer: the released weights were trained against these roundings.
    """
    angles = positions_T[:, None].float() * inv_freq
    scale = _table_scale(config.rope_scaling)
    return angles.cos() * scale, angles.sin() * scale


def turning_table(old_S: Tensor, new_S: Tensor, inv_freq: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin that turn what was rotated for the positions `old_S` on to `new_S`, both [S, R/2].

    The difference is taken of the float32 angles of `rotary_table`, so that its roundings are met and not added to. The
    table's scale is in the rotated numbers already.
    """
    turn_SR2 = (new_S[:, None].float() * inv_freq).double() - (old_S[:, None].float() * inv_freq).double()
    return turn_SR2.cos().float(), turn_SR2.sin().float()


def _table_scale(scaling: RopeScaling | None) -> float:
    """m(mscale)/m(mscale_all_dim), which is 1 in every released file."""
    if scaling is None:
        return 1.0
    return _mscale(scaling.factor, scaling.mscale) / _mscale(scaling.factor, scaling.mscale_all_dim)


def _mscale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _ramp(scaling: RopeScaling, R: int, theta: float) -> Tensor:
    """0 where a pair keeps its frequency, 1 where it is divided by the factor, linear between, shape [R/2]."""
    low = max(math.floor(_pair_with(scaling.beta_fast, scaling, R, theta)), 0)
    high = min(math.ceil(_pair_with(scaling.beta_slow, scaling, R, theta)), R - 1)
    width = high - low or 0.001
    return ((torch.arange(R // 2, dtype=torch.float32) - low) / width).clamp(0, 1)


def _pair_with(rotations: float, scaling: RopeScaling, R: int, theta: float) -> float:
    """The (fractional) pair that makes so many rotations within the original context."""
    turns = scaling.original_max_position_embeddings / (rotations * 2 * math.pi)
    return R * math.log(turns) / (2 * math.log(theta))
