"""Where things lie on this machine, and every environment variable that we read.

| variable         | kind | meaning                                             | default        |
|------------------|------|-----------------------------------------------------|----------------|
| CODERV2_THREADS  | int  | threads for arithmetic, at least 1                  | all the cores  |
| CODERV2_UPSTREAM_KEY | text | the key that `serve --upstream` sends (read by the command) | none |
| CODERV2_ISA      | name | instruction set of the CPU kernels: amx, avx512,    | the best that  |
|                  |      | avx2_vnni, avx2, neon, or none: PyTorch computes    | is there       |
| CODERV2_DATA     | path | benchmark data for `coderv2 eval`                   | fetched into   |
|                  |      |                                                     | ~/.cache       |
| CODERV2_API_KEY  | text | key for `eval --endpoint`                           | none is sent   |
| CODERV2_JUDGE_KEY| text | key for `eval --judge`                              | none is sent   |

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


def data() -> Path | None:
    """The folder of benchmark data (CODERV2_DATA); None: nobody has one."""
    value = os.environ.get("CODERV2_DATA")
    if not value:
        return None
    if not Path(value).is_dir():
        raise InvalidValue(f"CODERV2_DATA must name a folder, and {value!r} is none")
    return Path(value)


def cache() -> Path:
    """Where we keep what was fetched (XDG_CACHE_HOME)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coderv2"


def api_key() -> str | None:
    """What an endpoint under measurement is sent as its key (CODERV2_API_KEY)."""
    return os.environ.get("CODERV2_API_KEY") or None


def judge_key() -> str | None:
    """What a judging endpoint is sent as its key (CODERV2_JUDGE_KEY)."""
    return os.environ.get("CODERV2_JUDGE_KEY") or None
