"""Weights in kernel order: how each number format lays out a matrix, so that a kernel reads it once, straight through.

A matrix [O, I] is cut into blocks of 16 rows (the last one filled up with zeros), a block into superblocks of 256
columns (the last one may be shorter; I is filled up to a multiple of 32). Blocks follow each other, superblocks follow
each other within a block. In a vector of 64 bytes row r of the block owns the four bytes from 4r on: one lane.

A quantised superblock is, in this order:

- two-level scales only: d, then m if there are minima: float16 for each of the 16 rows (32 bytes each);
- for each 32 columns: scales, minima, quants.

| scales    | for each 32 columns                                  | scale of a row        | minimum of a row |
|-----------|------------------------------------------------------|-----------------------|------------------|
| flat      | 16 float16 scales                                    | the scale             | scale · offset   |
| flat_min  | 16 float16 scales, 16 float16 minima                 | the scale             | the minimum      |
| two       | 16 uint8 scales, 16 uint8 minima                     | d · scale             | m · minimum      |
| two_16    | 16 int8 scales for columns 0-15, 16 for 16-31        | d · scale             | d · scale · offset |
| two_16_min| 16 + 16 uint8 scales, 16 + 16 uint8 minima           | d · scale             | m · minimum      |

A weight is scale · quant - minimum, quants being unsigned. Columns go in steps of four, eight steps to 32 columns;
step s holds columns 4s … 4s+3 of each row in the row's lane.

- 4 bits: 4 vectors; vector v has step 2v in its low nibbles and step 2v+1 in its high ones.
- 5 bits: the same, then one vector whose bit s is the fifth bit of step s.
- 6 bits: the same as 4, then 2 vectors; vector v has the two upper bits of step 4v+j in bits 2j, 2j+1.
- 8 bits: 8 vectors, one for each step.

Formats that are not quantised have neither scales nor superblocks: bf16 has vectors of 2 columns (16 rows of a pair
each), f32 vectors of 1 column, fp8 (e4m3) vectors of 4 columns and, before each 128 columns, 16 float32 scales.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

ROWS = 16
"""Rows in a block."""
GROUP = 32
"""Columns between two sets of scales."""
SUPER = 256
"""Columns in a superblock."""

Scales = Literal["none", "flat", "flat_min", "two", "two_16", "two_16_min", "fp8"]


@dataclass(frozen=True)
class Format:
    """One number format."""

    name: str
    code: int
    """Its number in the C++ kernels (`formats.h`) and in packed files: never reused."""
    bits: int
    scales: Scales
    offset: int = 0
    """What is taken off a quant where there is no minimum of its own."""

    @property
    def unit(self) -> int:
        """Columns that lie together with all that makes their numbers."""
        return {"fp8": 128, "two": SUPER, "two_16": SUPER, "two_16_min": SUPER}.get(self.scales, GROUP)

    def bytes(self, rows: int, columns: int) -> int:
        """Of a matrix in kernel order."""
        blocks, columns = -(-rows // ROWS), -(-columns // 32) * 32
        head = {"two": 64, "two_16": 32, "two_16_min": 64}.get(self.scales, 0) * -(-columns // SUPER)
        each = {"flat": 32, "flat_min": 64, "two": 32, "two_16": 32, "two_16_min": 64}.get(self.scales, 0)
        blockwise = 64 * -(-columns // 128) if self.scales == "fp8" else 0
        return blocks * (head + each * columns // 32 + blockwise + ROWS * columns * self.bits // 8)


FORMATS = {
    f.name: f
    for f in (
        Format("f32", 0, 32, "none"),
        Format("bf16", 1, 16, "none"),
        Format("fp8", 2, 8, "fp8"),
        Format("q4_flat", 3, 4, "flat", 8),  # Q4_0
        Format("q4_flat_min", 4, 4, "flat_min"),  # Q4_1
        Format("q5_flat", 5, 5, "flat", 16),  # Q5_0
        Format("q5_flat_min", 6, 5, "flat_min"),  # Q5_1
        Format("int8", 7, 8, "flat", 128),  # Q8_0
        Format("int4", 8, 4, "two"),  # Q4_K
        Format("q5_two", 9, 5, "two"),  # Q5_K
        Format("q6_two", 10, 6, "two_16", 32),  # Q6_K
        Format("q4_two", 11, 4, "two_16", 4),  # Q3_K in nibbles
        Format("q4_two_min", 12, 4, "two_16_min"),  # Q2_K in nibbles
        Format("q8_two", 13, 8, "two_16", 128),  # IQ4_XS, its levels written out (IQ4_NL so becomes int8)
    )
}


@dataclass(frozen=True)
class Weight:
    """A matrix [O, I], or a stack of them [E, O, I], in kernel order."""

    format: Format
    shape: tuple[int, ...]
    data: Tensor
    """uint8, [E, bytes] or [bytes]."""

    def joined(self) -> "Weight":
        """A stack [E, O, I] as one matrix [E·O, I], where O is whole blocks: the same bytes."""
        E, O, I = self.shape
        if O % ROWS:
            raise ValueError(f"matrices of {O} rows do not join: no whole blocks of {ROWS}")
        return Weight(self.format, (E * O, I), self.data.flatten())

    def part(self, ranges: Sequence[range]) -> "Weight":
        """So much of each axis, maybe a view; ValueError where rows or columns would come apart that lie together."""
        *stack, rows, columns = ranges
        *_, O, I = self.shape
        for own, count, unit in ((rows, O, ROWS), (columns, I, self.format.unit)):
            if own.start % unit or (own.stop % unit and own.stop != count):
                raise ValueError(
                    f"{own.start} to {own.stop} of {count} cannot be taken out: {unit} lie together"
                )
        begin, end = (self.format.bytes(ROWS, column) for column in (columns.start, columns.stop))
        blocks = self.data.view(*self.shape[:-2], -(-O // ROWS), -1)
        kept = (*stack, range(rows.start // ROWS, -(-rows.stop // ROWS)), range(begin, end))
        data = blocks[tuple(slice(own.start, own.stop) for own in kept)].flatten(-2)
        return Weight(self.format, tuple(len(own) for own in ranges), data)
