"""Where things lie on this machine, and every environment variable that we read.

| variable         | kind | meaning                                             | default        |
|------------------|------|-----------------------------------------------------|----------------|
| CODERV2_THREADS  | int  | threads for arithmetic, at least 1                  | all the cores  |

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
