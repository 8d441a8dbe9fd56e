"""Where Triton 3.7's interpreter is wrong about numbers, and put right for the tests; a GPU is not concerned.

- Rounding to fp8 loses the carry: 125 becomes 64, not 128. Rounding to bfloat16 cuts off.
- Products multiply the bit patterns of bfloat16.
- Whole numbers become bfloat16 by their bits.
"""

from typing import Any

import numpy as np
import torch

_NARROW = {"bf16": torch.bfloat16, "fp8e4nv": torch.float8_e4m3fn, "fp8e5": torch.float8_e5m2}


def mend() -> None:
    """Once a process, after TRITON_INTERPRET is set."""
    import triton.language as tl
    from triton.runtime import interpreter

    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    plain_convert, plain_dot, plain_cast = interpreter._convert_float, builder.create_dot, builder.cast_impl

    def convert(numbers: Any, source: Any, target: Any, rounding: Any) -> Any:
        if source.name != "fp32" or target.name not in _NARROW:
            return plain_convert(numbers, source, target, rounding)
        rounded = torch.from_numpy(np.array(numbers, dtype=np.float32)).to(_NARROW[target.name])
        return rounded.view(torch.uint16 if target.name == "bf16" else torch.uint8).numpy()

    def widened(x: Any) -> Any:
        if x.dtype.scalar != tl.bfloat16:
            return x
        return handle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return plain_dot(self, widened(a), widened(b), *rest)

    def cast(self: Any, source: Any, kind: Any) -> Any:
        if kind.scalar == tl.bfloat16 and source.dtype.scalar.is_int():
            source = handle(source.data.astype(np.float32), tl.float32)
        return plain_cast(self, source, kind)

    interpreter._convert_float = convert
    builder.create_dot, builder.cast_impl = dot, cast
