"""Where things lie on this machine, and every environment variable that we read.

| variable         | kind | meaning                                             | default        |
|------------------|------|-----------------------------------------------------|----------------|
| CODERV2_THREADS  | int  | threads for arithmetic, at least 1                  | all the cores  |
| CODERV2_UPSTREAM_KEY | text | the key that `serve --upstream` sends (read by the command) | none |
| CODERV2_ISA      | name | instruction set of the CPU kernels: avx512, avx2,   | the best that  |
|                  |      | neon, or none: PyTorch computes                     | is there       |

A bad value is an error that names the variable. The Hugging Face variables (HF_HOME, HF_TOKEN, …) keep their meaning.
"""

import os
from pathlib import Path

from coderv2.errors import InvalidValue

BUNDLED_NAME = "bundled"


def bundled_model() -> Path:
    """The folder of the model that ships inside the package."""
    return Path(__file__).parent / BUNDLED_NAME


def threads() -> int:
    """How many threads arithmetic may use (CODERV2_THREADS)."""
    value = os.environ.get("CODERV2_THREADS")
    if value is None:
        return os.cpu_count() or 1
    if not value.isdecimal() or int(value) < 1:
        raise InvalidValue(f"CODERV2_THREADS must be a whole number of at least 1, not {value!r}")
    return int(value)


def isa() -> str | None:
    """The instruction set that the CPU kernels must use (CODERV2_ISA); None leaves it to them."""
    return os.environ.get("CODERV2_ISA") or None
