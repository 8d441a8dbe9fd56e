"""Weights in fewer bits as GPUs read them: rows as they stand, scales beside them.

The CPU's kernel order (`formats`) cuts a matrix into lanes of vector registers; a GPU loads tiles of plain rows. Two
kinds: fp8 (e4m3) times a scale for each block of a matrix, and int4 times a scale plus a least number for each group of
columns. fp8 weights multiply activations that are rounded to fp8 too (W8A8): to a scale measured for each row and 128
columns, or to one that the checkpoint brings. Codes of a checkpoint whose activations stay as they are, are `fp8_wide`.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from coderv2.errors import InvalidValue

Kind = Literal["fp8", "int4"]
"""What weights can be rounded to."""
Form = Literal["fp8", "fp8_wide", "int4"]
"""How they lie, and what becomes of activations: fp8 alone rounds these."""
FP8 = torch.float8_e4m3fn
LARGEST = 448.0
"""Of e4m3."""
BLOCK = 128
"""Rows and columns that share a scale in DeepSeek's own fp8 files, and columns of an activation that share one."""
GROUP = 64
"""Columns of int4 that share a scale: divides every width of the released models, which 128 does not."""


@dataclass(frozen=True)
class Scaled:
    """A matrix [O, I], or a stack of them [E, O, I]."""

    kind: Form
    codes: Tensor
    """fp8 [..., O, I], or uint8 [..., O, I/2] with the even column in the low half."""
    scales: Tensor
    """fp8: float32 [..., ⌈O/span[0]⌉, ⌈I/span[1]⌉]; int4: float16 [..., O, I/span[1], 2], scale and least number."""
    span: tuple[int, int]
    """Rows and columns that share a scale."""
    input_scale: Tensor | None = None
    """fp8: what activations are divided by, float32 of one element; None measures it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the numbers that are meant."""
        *outer, I = self.codes.shape
        return (*outer, 2 * I if self.kind == "int4" else I)

    def unbind(self) -> "list[Scaled]":
        """The matrices of a stack."""
        pairs = zip(self.codes.unbind(), self.scales.unbind(), strict=True)
        return [Scaled(self.kind, codes, scales, self.span, self.input_scale) for codes, scales in pairs]

    def to(self, device: torch.device) -> "Scaled":
        """The same there."""
        return replace(self, codes=self.codes.to(device), scales=self.scales.to(device))

    def copy_(self, other: "Scaled") -> None:
        """The numbers of another of the same form, in place."""
        self.codes.copy_(other.codes)
        self.scales.copy_(other.scales)
        if self.input_scale is not None and other.input_scale is not None:
            self.input_scale.copy_(other.input_scale)

    @property
    def nbytes(self) -> int:
        """Of codes and scales."""
        return self.codes.nbytes + self.scales.nbytes


@dataclass(frozen=True)
class Stored:
    """How a matrix, or a stack, that is FP8 in a checkpoint lies on a device: its codes and scales as they are."""

    rows: int
    """That share scales: 128, or 1."""
    form: Form = "fp8_wide"
    input_scale: Tensor | None = None
    """For fp8, of the device; whose input is the same have the same tensor."""

    def scaled(self, codes: Tensor, scales: Tensor) -> Scaled:
        """Of codes [..., O, I] and the scales of each row and 128 columns, [..., O, S]."""
        span = (self.rows, BLOCK)
        return Scaled(self.form, codes, scales[..., :: self.rows, :].contiguous(), span, self.input_scale)


def to_fp8(weight: Tensor, *, whole: bool = False, input_scale: float | None = None) -> Scaled:
    """Rounds to e4m3 with a scale for each 128 × 128 block, or for each `whole` matrix."""
    O, I = weight.shape[-2:]
    span = (O, I) if whole else (BLOCK, BLOCK)
    blocks = _blocks(weight.float(), span)
    scales = blocks.abs().amax((-3, -1)).clamp(min=1e-12) / LARGEST
    codes = _joined((blocks / scales[..., None, :, None]).to(FP8), O, I)
    fixed = None if input_scale is None else torch.tensor([input_scale], device=weight.device)
    return Scaled("fp8", codes, scales, span, fixed)


def to_int4(weight: Tensor, group: int = GROUP) -> Scaled:
    """Rounds to the nearest of 16 steps between each group's least and largest number."""
    if weight.shape[-1] % group:
        raise InvalidValue(f"int4 groups of {group} columns do not divide {weight.shape[-1]}")
    groups = weight.float().unflatten(-1, (-1, group))
    low, high = groups.amin(-1).half(), groups.amax(-1)
    # Rounded up, so that 15 steps reach the largest; never 0, which float16 would make of a tiny one.
    scale = ((high - low).clamp(min=0) / 15 * (1 + 2**-10)).half().clamp(min=2**-24)
    codes = ((groups - low.float()[..., None]) / scale.float()[..., None]).round().clamp(0, 15)
    codes = codes.to(torch.uint8).flatten(-2)
    packed = codes[..., 0::2] | codes[..., 1::2] << 4
    return Scaled("int4", packed, torch.stack((scale, low), -1), (1, group))


def restore(weight: Scaled) -> Tensor:
    """The numbers as float32."""
    O, I = weight.shape[-2:]
    if weight.kind != "int4":
        spread = weight.scales.repeat_interleave(weight.span[0], -2)[..., :O, :]
        return weight.codes.float() * spread.repeat_interleave(weight.span[1], -1)[..., :I]
    codes = torch.stack((weight.codes & 15, weight.codes >> 4), -1).flatten(-2)
    groups = codes.float().unflatten(-1, (-1, weight.span[1]))
    numbers: Tensor = groups * weight.scales[..., :1] + weight.scales[..., 1:]
    return numbers.flatten(-2)


def round_rows(x_TD: Tensor, input_scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Activations as e4m3 [T, D] and their scales [T, G], one for each 128 columns or the given one."""
    if input_scale is not None:
        codes = (x_TD.float() / input_scale).clamp(-LARGEST, LARGEST).to(FP8)
        return codes, input_scale.expand(x_TD.shape[0], 1).contiguous()
    D = x_TD.shape[1]
    groups_TGb = F.pad(x_TD.float(), (0, -D % BLOCK)).unflatten(1, (-1, BLOCK))
    scales_TG = groups_TGb.abs().amax(-1).clamp(min=1e-12) / LARGEST
    codes_TD = (groups_TGb / scales_TG[..., None]).to(FP8).flatten(1)[:, :D].contiguous()
    return codes_TD, scales_TG


def restore_rows(codes_TD: Tensor, scales_TG: Tensor) -> Tensor:
    """The numbers that `round_rows` left, as float32."""
    D, G = codes_TD.shape[1], scales_TG.shape[1]
    width = D if G == 1 and D > BLOCK else BLOCK
    return codes_TD.float() * scales_TG.repeat_interleave(width, 1)[:, :D]


def _blocks(x: Tensor, span: tuple[int, int]) -> Tensor:
    """[..., O/r, r, I/c, c], zeros appended to whole blocks."""
    rows, columns = span
    filled = F.pad(x, (0, -x.shape[-1] % columns, 0, -x.shape[-2] % rows))
    blocks: Tensor = filled.unflatten(-1, (-1, columns)).unflatten(-3, (-1, rows))
    return blocks


def _joined(blocks: Tensor, O: int, I: int) -> Tensor:
    return blocks.flatten(-2).flatten(-3, -2)[..., :O, :I].contiguous()
